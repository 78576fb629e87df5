"""The actor behind a server: one engine in its own process, whose events are fetched in bulk."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from starr_engine.async_llm import AsyncLLM
from starr_engine.config import ResolvedConfig
from starr_engine.distributed.replay import Event
from starr_engine.engine.stats import EngineStats
from starr_engine.errors import RequestError, StarrError
from starr_engine.infilling import Candidates
from starr_engine.models.base import ModelSpec
from starr_engine.outputs import ProvisionalOutput
from starr_engine.params import SamplingParams
from starr_engine.tokenization import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaInfo:
    """What a replica says of itself once its model is loaded; a server needs no model files."""

    config: ResolvedConfig
    spec: ModelSpec
    tokenizer: Tokenizer | None
    process_id: int
    """On its machine."""


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
    """One engine; :meth:`load` comes before all else.

    All its requests share one channel: :meth:`events` answers as soon as something has happened,
    with all that has, so that a step of a full batch is one message.

    Args:
        options: Keyword arguments of ``AsyncLLM``.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options: Final = options
        self._outbox: Final = Outbox()
        self._tasks: Final[dict[int, asyncio.Task[None]]] = {}

    async def load(self) -> ReplicaInfo:
        """Load the model.

        Raises:
            StarrError: If the model or an option cannot be used.
        """
        self._llm = llm = await asyncio.to_thread(AsyncLLM, **self._options)
        try:
            tokenizer = llm.tokenizer
        except RequestError:  # it has none, and says so to whoever asks
            tokenizer = None
        return ReplicaInfo(
            config=llm.config, spec=llm.spec, tokenizer=tokenizer, process_id=os.getpid()
        )

    async def start(self, key: int, request: EncodedRequest) -> None:
        """Begin a request; its events come through :meth:`events`, an :class:`End` last.

        Args:
            key: Never used before.
            request: What to run.
        """
        task = asyncio.create_task(self._run(key, request))
        self._tasks[key] = task
        task.add_done_callback(lambda _: self._tasks.pop(key))

    async def end(self, key: int) -> None:
        """End a request, if it is still there; its pages are free at the next step."""
        if task := self._tasks.get(key):
            task.cancel()

    async def events(self) -> list[tuple[int, Event | End]]:
        """What has happened since the last call, at least one thing, with the requests' keys."""
        return await self._outbox.take()

    async def stats(self) -> EngineStats:
        """What the engine has done; answered between two of its steps.

        Raises:
            EngineDeadError: If it has failed.
        """
        return await self._llm.stats()

    async def _run(self, key: int, request: EncodedRequest) -> None:
        error: Exception | None = None
        try:
            events = self._llm.events(
                request.candidates,
                request.params,
                request.request_id,
                provisional=request.provisional,
            )
            async with aclosing(events):
                async for event in events:
                    self._outbox.put(key, event)
        except StarrError as raised:
            error = raised
        except Exception as raised:  # may hold what cannot be sent
            error = RuntimeError(f"{type(raised).__name__}: {raised}")
        self._outbox.put(key, End(error))


class Outbox:
    """Events of all requests, until they are fetched."""

    def __init__(self) -> None:
        self._items: list[tuple[int, Event | End]] = []
        self._provisional: Final[dict[tuple[int, str], int]] = {}
        self._has_items: Final = asyncio.Event()

    def put(self, key: int, event: Event | End) -> None:
        """Add an event; a provisional block takes the place of an older one that nobody fetched."""
        if isinstance(event, ProvisionalOutput):
            place = self._provisional.setdefault((key, event.request_id), len(self._items))
            if place < len(self._items):
                self._items[place] = (key, event)
                return
        elif not isinstance(event, End):
            self._provisional.pop((key, event.request_id), None)
        self._items.append((key, event))
        self._has_items.set()

    async def take(self) -> list[tuple[int, Event | End]]:
        """All events, once there is one."""
        await self._has_items.wait()
        items, self._items = self._items, []
        self._provisional.clear()
        self._has_items.clear()
        return items
