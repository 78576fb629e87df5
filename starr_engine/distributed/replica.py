"""A replica: one engine in a process of its own, that Ray Serve starts, checks and ends."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from ray import serve

from starr_engine.async_llm import AsyncLLM
from starr_engine.config import ResolvedConfig
from starr_engine.distributed.rank_actors import RankActors
from starr_engine.distributed.replay import Event
from starr_engine.engine.stats import EngineStats
from starr_engine.errors import ConfigError, EngineDeadError, RequestError, StarrError
from starr_engine.infilling import Candidates
from starr_engine.models.base import ModelSpec
from starr_engine.outputs import ProvisionalOutput
from starr_engine.params import SamplingParams
from starr_engine.serve.logs import log
from starr_engine.tokenization import Tokenizer

EXIT_STATUS: Final = 70
"""Of a replica that has ended itself, because its engine is of no use any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaInfo:
    """What a replica says of its engine; a server needs no model files."""

    config: ResolvedConfig
    spec: ModelSpec
    tokenizer: Tokenizer | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaReport:
    """What a replica has done, and holds now."""

    name: str
    """Serve's for it, never given to another one."""

    process_id: int
    """On its machine."""

    stats: EngineStats


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedRequest:
    """What a replica is asked to run."""

    candidates: Candidates
    params: SamplingParams
    request_id: str
    provisional: bool


@dataclass(frozen=True, slots=True)
class End:
    """Behind the last event of a request."""

    error: Exception | None


class Replica:
    """What each replica of the deployment is.

    A model or option that cannot be used is no reason for Serve to try again, so that it is kept
    for :meth:`info` to tell; whatever else stops the engine from being made is raised.

    Args:
        options: Keyword arguments of ``AsyncLLM``.
        patience_s: Seconds that the engine has to answer between two steps, before the process
            ends itself.
        owner: An actor with whose end the application ends; None lets it stay.
    """

    def __init__(
        self, options: Mapping[str, Any], patience_s: float, owner: Any | None = None
    ) -> None:
        self._patience_s: Final = patience_s
        self._made: Final = _make_engine(options)
        if owner is not None:
            from starr_engine.distributed.ownership import end_with

            end_with(owner, serve.get_replica_context().app_name)

    def info(self) -> ReplicaInfo | ConfigError:
        """Of the engine, or why there is none."""
        if isinstance(self._made, ConfigError):
            return self._made
        llm = self._made
        try:
            tokenizer = llm.tokenizer
        except RequestError:  # it has none, and says so to whoever asks
            tokenizer = None
        return ReplicaInfo(config=llm.config, spec=llm.spec, tokenizer=tokenizer)

    async def run(self, request: EncodedRequest) -> AsyncGenerator[list[Event | End], None]:
        """Run a request; closing the generator ends it, and its pages are free at the next step.

        Yields:
            What has happened since the last time, an :class:`End` last of all.
        """
        outbox = Outbox()
        task = asyncio.create_task(self._fill(outbox, request))
        try:
            is_over = False
            while not is_over:
                events = await outbox.take()
                is_over = isinstance(events[-1], End)
                yield events
        finally:
            task.cancel()

    async def report(self) -> ReplicaReport:
        """What the engine has done; answered between two of its steps."""
        return ReplicaReport(
            name=serve.get_replica_context().replica_id.unique_id,
            process_id=os.getpid(),
            stats=await self._engine.stats(),
        )

    async def check_health(self) -> None:
        """Called by Serve every few seconds; ends the process of an engine that is dead or hangs.

        Serve would let three checks fail before it replaces a replica, and give it requests until
        then.
        """
        if isinstance(self._made, ConfigError):
            return  # to end would be to try again
        try:
            async with asyncio.timeout(self._patience_s):
                await self._made.stats()
        except TimeoutError:
            _end_process(f"the engine has not answered for {self._patience_s:g} s")
        except EngineDeadError as error:
            _end_process(str(error))

    @property
    def _engine(self) -> AsyncLLM:
        if isinstance(self._made, ConfigError):
            _end_process(str(self._made))
        return self._made

    async def _fill(self, outbox: Outbox, request: EncodedRequest) -> None:
        error: Exception | None = None
        try:
            events = self._engine.events(
                request.candidates,
                request.params,
                request.request_id,
                provisional=request.provisional,
            )
            async with aclosing(events):
                async for event in events:
                    outbox.put(event)
        except EngineDeadError as raised:
            # Who asked learns it from the end of the process, and asks another replica.
            _end_process(str(raised))
        except StarrError as raised:
            error = raised
        except Exception as raised:  # may hold what cannot be sent
            error = RuntimeError(f"{type(raised).__name__}: {raised}")
        outbox.put(End(error))


class Outbox:
    """Events of one request until they are fetched, those of all its samples together."""

    def __init__(self) -> None:
        self._items: list[Event | End] = []
        self._provisional: Final[dict[str, int]] = {}
        self._has_items: Final = asyncio.Event()

    def put(self, event: Event | End) -> None:
        """Add an event; a provisional block takes the place of an older one that nobody fetched."""
        if isinstance(event, ProvisionalOutput):
            place = self._provisional.setdefault(event.request_id, len(self._items))
            if place < len(self._items):
                self._items[place] = event
                return
        elif not isinstance(event, End):
            self._provisional.pop(event.request_id, None)
        self._items.append(event)
        self._has_items.set()

    async def take(self) -> list[Event | End]:
        """All events, once there is one."""
        await self._has_items.wait()
        items, self._items = self._items, []
        self._provisional.clear()
        self._has_items.clear()
        return items


def _make_engine(options: Mapping[str, Any]) -> AsyncLLM | ConfigError:
    try:
        return AsyncLLM(**options, start_ranks=RankActors)
    except ConfigError as error:
        return error


def _end_process(reason: str) -> NoReturn:
    log("replica ends", logging.ERROR, reason=reason)
    os._exit(EXIT_STATUS)
