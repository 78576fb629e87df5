"""Several engines that stand for one: the front of a deployment of replicas."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, Final

from ray import serve
from ray.exceptions import ActorDiedError, RayActorError
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus

from starr_engine.async_llm import AsyncFront
from starr_engine.distributed.ledger import Ledger, Ticket
from starr_engine.distributed.replay import DifferentTokensError, Event, Replay
from starr_engine.distributed.replica import EncodedRequest, End, ReplicaInfo, ReplicaReport
from starr_engine.distributed.routing import page_chain
from starr_engine.engine.stats import EngineStats
from starr_engine.errors import EngineDeadError, ReplicaDiedError
from starr_engine.infilling import Candidates
from starr_engine.outputs import RequestOutput
from starr_engine.params import SamplingParams
from starr_engine.samples import requests_of, sample_id
from starr_engine.serve.logs import log
from starr_engine.serve.protocol import FleetState, ReplicaState

MAX_DEATHS: Final = 2
"""A request whose replicas have died so often is suspected of it, and is not run again."""

_REPORT_TIMEOUT_S: Final = 1.0
"""Replicas that have not all told their numbers by then are described by those they told before."""

_WARNING: Final = 30


class ReplicatedLLM(AsyncFront):
    """A model that several replicas serve; used as ``AsyncLLM``.

    A request goes to the replica with the least outstanding tokens; where prefixes are shared, what
    a replica has of the prompt counts for it. When a replica dies, Serve starts another one, and
    its requests run again elsewhere, with what they have given already left out. The replicas are
    not its own: see ``distributed.application.serve_replicas`` and ``distributed.serve_app``.

    Args:
        handle: Of the deployment.
        info: Of its engines.
        app: Name of the application that the deployment is part of.
    """

    def __init__(self, handle: DeploymentHandle[Any], info: ReplicaInfo, app: str) -> None:
        super().__init__(info.config, info.spec, info.tokenizer)
        self._handle: Final = handle
        self._app: Final = app
        self._calls: Final = handle.options(method_name="run", stream=True)
        self._ledger: Final = Ledger(info.config.page_size, info.config.num_pages)
        # Elsewhere a replica that has seen a prompt has no advantage.
        self._has_prefixes = info.config.prefix_caching and info.spec.mask_block is not None
        self._num_reruns = 0
        self._reports: dict[str, ReplicaReport] = {}

    async def events(
        self, candidates: Candidates, params: SamplingParams, request_id: str, *, provisional: bool
    ) -> AsyncGenerator[Event, None]:
        """As ``AsyncFront.events``; they run in one replica.

        Raises:
            ReplicaDiedError: If it has died, and the request could not be run again.
        """
        ticket = self._ticket(candidates, params, request_id, provisional=provisional)
        unfinished = {sample_id(request_id, number) for number in range(ticket.num_requests)}
        replay, num_deaths = Replay(), 0
        self._ledger.begin(ticket)
        try:
            while unfinished:
                call = self._calls.remote(ticket)
                try:
                    async for event in _events(call):
                        if not _is_new(replay, event):
                            continue
                        self._ledger.note(ticket, event)
                        if isinstance(event, RequestOutput):
                            unfinished.discard(event.request_id)
                        yield event
                except RayActorError as error:
                    num_deaths += 1
                    self._lose(ticket, error, num_deaths)
                    replay.restart()
                except DeploymentUnavailableError as error:
                    raise EngineDeadError(f"no replica could be started: {error}") from error
                finally:
                    if unfinished:
                        call.cancel()
        finally:
            self._ledger.end(ticket)

    def _lose(self, ticket: Ticket, error: RayActorError, num_deaths: int) -> None:
        name = ticket.place
        self._ledger.lose(ticket, is_dead=isinstance(error, ActorDiedError))
        log("replica lost", _WARNING, replica=name, request_id=ticket.request.request_id)
        if num_deaths == MAX_DEATHS:
            raise ReplicaDiedError(
                f"the engine that ran this request has died, {MAX_DEATHS} times over; the "
                "request may be the reason"
            ) from error
        self._num_reruns += 1

    async def stats(self) -> EngineStats:
        """Of all replicas that live, added up."""
        state = await self.fleet()
        return EngineStats.total([each.stats for each in state.replicas])

    async def fleet(self) -> FleetState:
        """How the replicas are now.

        Raises:
            EngineDeadError: If none lives and none will.
        """
        starting, draining = await asyncio.to_thread(self._counts)
        await self._refresh_reports()
        ledger = self._ledger
        given = {name: ledger.outstanding(name) for name in self._reports}
        return FleetState(
            replicas=tuple(
                ReplicaState(
                    name=name,
                    num_requests=given[name].num_requests,
                    outstanding_tokens=given[name].tokens,
                    stats=report.stats,
                )
                for name, report in self._reports.items()
            ),
            num_starting=starting,
            num_draining=draining,
            num_waiting=ledger.num_waiting,
            num_deaths=ledger.num_deaths,
            num_reruns=self._num_reruns,
        )

    async def reports(self) -> list[ReplicaReport]:
        """What each replica says that takes requests, those that answer within a second."""
        await self._refresh_reports()
        return [*self._reports.values()]

    def close(self) -> None:
        """Nothing: the replicas end with their application."""

    def _counts(self) -> tuple[int, int]:
        """Of replicas that start, and that finish what they have."""
        application = serve.status().applications.get(self._app)
        if application is None or application.status in (
            ApplicationStatus.DEPLOY_FAILED,
            ApplicationStatus.DELETING,
        ):
            reason = "it was deleted" if application is None else application.message
            raise EngineDeadError(f"the application {self._app} has ended: {reason}")
        states = application.deployments[self._handle.deployment_name].replica_states
        return (
            states.get("STARTING", 0),
            states.get("STOPPING", 0),
        )

    async def _refresh_reports(self) -> None:
        try:
            answers = await self._handle.broadcast("report").results_async(
                timeout_s=_REPORT_TIMEOUT_S, return_exceptions=True
            )
        except TimeoutError:
            return
        except DeploymentUnavailableError:  # no replica is ready
            answers = []
        reports = [answer for answer in answers if isinstance(answer, ReplicaReport)]
        self._reports = {report.name: report for report in reports}

    def _ticket(
        self, candidates: Candidates, params: SamplingParams, request_id: str, *, provisional: bool
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
            ledger=self._ledger,
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


async def _events(call: Any) -> AsyncGenerator[Event, None]:
    """The events of one run of a request; ends with it, or raises what it ended with."""
    async for events in call:
        for event in events:
            if not isinstance(event, End):
                yield event
            elif event.error is not None:
                raise event.error
            else:
                return
    # Serve has ended the replica, which had more to do than there was time for.
    raise ActorDiedError


def _is_new(replay: Replay, event: Event) -> bool:
    try:
        return replay.is_new(event)
    except DifferentTokensError:
        raise ReplicaDiedError(
            "the engine that ran this request has died, and another one makes other "
            "tokens of it than were sent already; send it again"
        ) from None
