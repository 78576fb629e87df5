"""Several engines that stand for one: what a server with ``--replicas`` serves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from concurrent.futures import Future, TimeoutError
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from starr_engine.async_llm import AsyncFront, Inbox
from starr_engine.config import EngineConfig
from starr_engine.distributed.member import Ticket
from starr_engine.distributed.options import Replicas
from starr_engine.distributed.replay import Event
from starr_engine.distributed.replica import EncodedRequest, Replica, ReplicaInfo
from starr_engine.distributed.routing import page_chain
from starr_engine.engine.stats import EngineStats
from starr_engine.errors import ConfigError, StarrError
from starr_engine.infilling import Candidates
from starr_engine.offline.signals import StopSignals
from starr_engine.outputs import RequestOutput
from starr_engine.params import SamplingParams
from starr_engine.samples import requests_of, sample_id
from starr_engine.serve.protocol import FleetState

if TYPE_CHECKING:
    from starr_engine.distributed.fleet import ReplicaFleet

_WAIT_S: Final = 0.2
"""So often it is looked whether a signal has come while the first replica starts."""


class ReplicatedLLM(AsyncFront):
    """A model that several engines serve, each in a Ray actor; used as ``AsyncLLM``.

    A request goes to the replica with the least outstanding tokens; where prefixes are shared, what
    a replica has of the prompt counts for it. When a replica dies another one is started, and its
    requests run again elsewhere, with what they have given already left out. It is made when the
    first replica is ready.

    Args:
        engine: Of each replica; None takes the defaults.
        replicas: How many, and with what; None is one.

    Raises:
        ConfigError: If Ray is not installed or has too little, or the model or an option cannot be
            used.
        StarrError: If there is no cluster, no replica lives to load its model, or SIGINT or SIGTERM
            comes first.

    Examples:
        >>> async with ReplicatedLLM(EngineConfig(model="tiny-sdar"), Replicas(count=2)) as llm:
        ...     output = await llm.generate("Sort: 5 3 9")
    """

    def __init__(
        self, engine: EngineConfig | None = None, replicas: Replicas | None = None
    ) -> None:
        if find_spec("ray") is None:
            raise ConfigError("several replicas need Ray: pip install 'starr-engine[ray]'")
        options = replicas or Replicas()
        with contextlib.ExitStack() as opened:
            self._fleet: Final = _start_fleet(engine or EngineConfig(), options, opened)
            info = _first(self._fleet.first)
            self._opened: Final = opened.pop_all()
        super().__init__(info.config, info.spec, info.tokenizer)
        # Elsewhere a replica that has seen a prompt has no advantage.
        self._has_prefixes = info.config.prefix_caching and info.spec.mask_block is not None

    async def events(
        self, candidates: Candidates, params: SamplingParams, request_id: str, *, provisional: bool
    ) -> AsyncGenerator[Event, None]:
        """As ``AsyncFront.events``; they run in one replica.

        Raises:
            ReplicaDiedError: If it has died, and the request could not be run again.
        """
        inbox = Inbox()
        ticket = self._ticket(candidates, params, request_id, inbox, provisional=provisional)
        unfinished = {sample_id(request_id, number) for number in range(ticket.num_requests)}
        self._fleet.submit(ticket)
        try:
            while unfinished:
                event = await inbox.get()
                if isinstance(event, Exception):
                    unfinished.clear()
                    raise event
                if isinstance(event, RequestOutput):
                    unfinished.discard(event.request_id)
                yield event
        finally:
            if unfinished:
                self._fleet.cancel(ticket)

    async def stats(self) -> EngineStats:
        """Of all replicas that live, added up."""
        state = await self.fleet()
        return EngineStats.total([each.stats for each in state.replicas if each.stats is not None])

    async def fleet(self) -> FleetState:
        """How the replicas are now.

        Raises:
            EngineDeadError: If none lives and none will.
        """
        return await asyncio.wrap_future(self._fleet.state())

    def close(self) -> None:
        """End the replicas, and Ray if it was started here.

        Unfinished calls raise ``EngineDeadError``.
        """
        self._opened.close()

    def _ticket(
        self,
        candidates: Candidates,
        params: SamplingParams,
        request_id: str,
        inbox: Inbox,
        *,
        provisional: bool,
    ) -> Ticket:
        requests = requests_of(candidates, params)
        chain: list[int] = []
        if self._has_prefixes:
            # The lengths of a gap have one prefix; what stands behind a mask is of no prefix.
            prompt = candidates[0].prompt_token_ids
            chain = page_chain(prompt, self.config.page_size, params.cache_salt)
        return Ticket(
            request=EncodedRequest(
                candidates=candidates,
                params=params,
                request_id=request_id,
                provisional=provisional,
            ),
            sink=inbox.put_from_thread,
            prompt_tokens=sum(
                len(each.prompt_token_ids) + len(each.template or ()) - each.num_masks
                for each in candidates
            ),
            new_tokens=sum(
                sample.max_tokens if prompt.template is None else prompt.num_masks
                for prompt, sample in requests
            ),
            num_requests=len(requests),
            chain=chain,
        )


def _start_fleet(
    engine: EngineConfig, replicas: Replicas, opened: contextlib.ExitStack
) -> ReplicaFleet:
    import ray

    from starr_engine.distributed.fleet import ReplicaFleet
    from starr_engine.distributed.session import connected, engine_options, resources

    opened.enter_context(connected(replicas.workers, engine))
    wanted = resources(replicas.workers, engine)
    options: dict[str, Any] = engine_options(engine, wanted)
    # A replica must hear that a request is to end however many it has.
    remote: Any = ray.remote(Replica).options(
        max_restarts=0, max_task_retries=0, max_concurrency=1 << 16, **wanted
    )
    fleet = ReplicaFleet(replicas, lambda: remote.remote(options))
    opened.callback(fleet.close)
    return fleet


def _first(first: Future[ReplicaInfo]) -> ReplicaInfo:
    """What the first replica says; waited for as long as it takes, or until a signal comes."""
    with StopSignals() as stop:
        while stop.received is None:
            with contextlib.suppress(TimeoutError):
                return first.result(_WAIT_S)
    raise StarrError(f"{stop.received.name} came before a replica had loaded its model")
