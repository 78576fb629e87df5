"""The engine behind ``async`` calls: many callers, one batch."""

from __future__ import annotations

import asyncio
import itertools
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext, suppress
from types import TracebackType
from typing import Any, Self

from starr_engine.config import EngineConfig, ResolvedConfig
from starr_engine.engine.engine import Engine
from starr_engine.engine.loading import StartRanks
from starr_engine.engine.rank_processes import RankProcesses
from starr_engine.engine.stats import EngineStats
from starr_engine.engine.thread import EngineThread, Event
from starr_engine.errors import RequestError
from starr_engine.infilling import SEAM_PARAMS, Candidates, seam_checks
from starr_engine.models.base import ModelSpec
from starr_engine.outputs import ProvisionalOutput, RequestOutput
from starr_engine.params import SamplingParams
from starr_engine.prompts import Message, Prompt, encode_chat, encode_prompt
from starr_engine.samples import join_requests, requests_of, sample_id
from starr_engine.tokenization import Tokenizer


class AsyncFront(ABC):
    """The calls of many callers at once, in front of whatever runs encoded prompts.

    Args:
        config: As resolved against the model.
        spec: Of the model.
        tokenizer: Of the checkpoint, if it has one.
    """

    def __init__(
        self, config: ResolvedConfig, spec: ModelSpec, tokenizer: Tokenizer | None
    ) -> None:
        self.config = config
        self.spec = spec
        self._tokenizer = tokenizer
        self._auto_ids = itertools.count()

    @abstractmethod
    def close(self) -> None:
        """End what was started; unfinished calls raise ``EngineDeadError``."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self.close)

    @abstractmethod
    def events(
        self, candidates: Candidates, params: SamplingParams, request_id: str, *, provisional: bool
    ) -> AsyncGenerator[Event, None]:
        """What happens to the requests of one encoded prompt; whatever ends it, they end too.

        Args:
            candidates: Of ``prompts.encode_prompt``.
            params: Of all of them.
            request_id: As ``samples.sample_id`` extends it.
            provisional: As for ``stream``.

        Raises:
            RequestError: If the prompt cannot run.
            EngineDeadError: If the engine fails or is closed before it has finished.
        """

    @property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer.

        Raises:
            RequestError: If the model folder has none.
        """
        if self._tokenizer is None:
            raise RequestError(
                "this model folder has no tokenizer.json; give prompts as prompt_token_ids"
            )
        return self._tokenizer

    def default_sampling_params(self) -> SamplingParams:
        """What ``params=None`` stands for; as ``LLM.default_sampling_params``."""
        return SamplingParams().with_overrides(self.spec.generation_defaults)

    async def generate(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        request_id: str | None = None,
    ) -> RequestOutput:
        """Generate for one prompt.

        Args:
            prompt: As ``LLM.generate`` takes it.
            params: None takes the defaults.
            request_id: Unique among unfinished requests; None makes one.

        Returns:
            The output; with ``n`` above 1 the first sample's, which holds the others.

        Raises:
            RequestError: If the prompt cannot run.
            EngineDeadError: If the engine fails or is closed before it has finished.
        """
        candidates = await asyncio.to_thread(encode_prompt, prompt, lambda: self.tokenizer)
        return await self._finish(candidates, params, request_id)

    async def chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        request_id: str | None = None,
    ) -> RequestOutput:
        """Answer one conversation through the checkpoint's chat template; else as ``generate``."""
        candidates = await asyncio.to_thread(encode_chat, messages, lambda: self.tokenizer)
        return await self._finish(candidates, params, request_id)

    async def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        request_id: str | None = None,
        provisional: bool = False,
    ) -> AsyncGenerator[Event, None]:
        """Generate for one prompt, giving each block as it is committed.

        Args:
            prompt: As ``LLM.stream`` takes it.
            params: None takes the defaults.
            request_id: Unique among unfinished requests; None makes one. With ``n`` above 1 the
                samples behind the first are ``"<request_id>.1"``, ``"<request_id>.2"`` ...
            provisional: Whether to give the active block after every step too; while the caller
                is busy, a newer one takes the place of one that was not read yet.

        Yields:
            A ``BlockOutput`` per block, a ``RequestOutput`` per sample, and, if asked for,
            ``ProvisionalOutput`` between them.

        Raises:
            RequestError: If the prompt cannot run, or has a range of gap lengths.
            EngineDeadError: If the engine fails or is closed before it has finished.
        """
        candidates = await asyncio.to_thread(encode_prompt, prompt, lambda: self.tokenizer)
        events = self._stream(candidates, params, request_id, provisional=provisional)
        async with aclosing(events):
            async for event in events:
                yield event

    async def stream_chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        request_id: str | None = None,
        provisional: bool = False,
    ) -> AsyncGenerator[Event, None]:
        """Answer one conversation, giving each block as it is committed; else as ``stream``."""
        candidates = await asyncio.to_thread(encode_chat, messages, lambda: self.tokenizer)
        events = self._stream(candidates, params, request_id, provisional=provisional)
        async with aclosing(events):
            async for event in events:
                yield event

    async def _finish(
        self, candidates: Candidates, params: SamplingParams | None, request_id: str | None
    ) -> RequestOutput:
        name = self._name(request_id)
        tried = await self._outputs(candidates, params or self.default_sampling_params(), name)
        checks = seam_checks(candidates, tried)
        judged = await self._outputs(checks, SEAM_PARAMS, f"{name}.seam") if checks else []
        return join_requests(candidates, tried, judged)

    async def _outputs(
        self, candidates: Candidates, params: SamplingParams, name: str
    ) -> list[RequestOutput]:
        finished: dict[str, RequestOutput] = {}
        async for event in self.events(candidates, params, name, provisional=False):
            if isinstance(event, RequestOutput):
                finished[event.request_id] = event
        return [finished[sample_id(name, number)] for number in range(len(finished))]

    async def _stream(
        self,
        candidates: Candidates,
        params: SamplingParams | None,
        request_id: str | None,
        *,
        provisional: bool,
    ) -> AsyncGenerator[Event, None]:
        if len(candidates) > 1:
            raise RequestError(
                "which gap length is taken is known only at the end, so a range cannot be "
                "streamed; use generate, or give one length"
            )
        name = self._name(request_id)
        events = self.events(
            candidates, params or self.default_sampling_params(), name, provisional=provisional
        )
        async with aclosing(events):
            async for event in events:
                yield event

    def _name(self, request_id: str | None) -> str:
        return f"async-{next(self._auto_ids)}" if request_id is None else request_id


class AsyncLLM(AsyncFront):
    """A model that serves any number of concurrent calls of one event loop.

    The engine steps in a thread of its own. A call that is cancelled, or whose iterator is closed,
    ends its requests and frees their pages at once.

    Args:
        model: A shipped model's name, a local folder in the published format, or a hub id.
        max_unfinished: Prompts that are in the engine at once, waiting ones included; further
            calls wait in their turn until one has finished. None sets no bound.
        start_ranks: Where the other ranks of a split model run.
        **options: Fields of ``EngineConfig``.

    Raises:
        ConfigError: If the model or an option cannot be used.

    Examples:
        >>> async with AsyncLLM("tiny-llada") as llm:
        ...     output = await llm.generate("Sort: 5 3 9")
    """

    def __init__(
        self,
        model: str = "tiny-llada",
        *,
        max_unfinished: int | None = None,
        start_ranks: StartRanks = RankProcesses,
        **options: Any,
    ) -> None:
        if max_unfinished is not None and max_unfinished < 1:
            raise RequestError(f"max_unfinished must be at least 1, got {max_unfinished!r}")
        engine = Engine(EngineConfig.from_options(model=model, **options), start_ranks)
        super().__init__(engine.config, engine.spec, engine.tokenizer)
        self._thread = EngineThread(engine)
        self._places = None if max_unfinished is None else asyncio.Semaphore(max_unfinished)

    async def stats(self) -> EngineStats:
        """What the engine has done since it was made, and what it holds now."""
        return await asyncio.wrap_future(self._thread.call(Engine.stats))

    def abort(self, request_id: str) -> None:
        """End a request soon; whoever waits for it gets what it had committed."""
        self._thread.call(lambda engine: self._thread.end(request_id))

    def close(self) -> None:
        """Stop the engine; unfinished calls raise ``EngineDeadError``."""
        self._thread.close()

    async def events(
        self, candidates: Candidates, params: SamplingParams, request_id: str, *, provisional: bool
    ) -> AsyncGenerator[Event, None]:
        """As ``AsyncFront.events``; they run in the engine's thread."""
        requests = requests_of(candidates, params)
        names = [sample_id(request_id, number) for number in range(len(requests))]
        inbox = Inbox()

        def add(engine: Engine) -> None:
            for added, (prompt, sample) in enumerate(requests):
                try:
                    engine.add_request(
                        prompt.prompt_token_ids,
                        sample,
                        names[added],
                        template=prompt.template,
                        given=prompt.given,
                    )
                except BaseException:
                    for earlier in names[:added]:
                        engine.abort(earlier)
                    raise
            for each in names:
                self._thread.subscribe(each, inbox.put_from_thread, provisional=provisional)

        async with self._place():
            unfinished = set(names)
            adding = self._thread.call(add)
            try:
                await asyncio.wrap_future(adding)
                while unfinished:
                    event = await inbox.get()
                    if isinstance(event, Exception):
                        raise event
                    if isinstance(event, RequestOutput):
                        unfinished.discard(event.request_id)
                    yield event
            finally:
                if unfinished:
                    self._end(unfinished, adding)

    def _end(self, request_ids: set[str], adding: Future[None]) -> None:
        """Abort requests if they were added: of one that was refused, the id is another's."""

        def end(engine: Engine) -> None:
            del engine
            if not adding.cancelled() and adding.exception() is None:
                for request_id in request_ids:
                    self._thread.end(request_id)

        self._thread.call(end)

    def _place(self) -> AbstractAsyncContextManager[object]:
        return nullcontext() if self._places is None else self._places


class Inbox:
    """Events on their way from another thread to one coroutine of the loop that made this."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: deque[Event | Exception] = deque()
        self._has_events = asyncio.Event()

    def put_from_thread(self, event: Event | Exception) -> None:
        """An event loop that is gone wants nothing."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._put, event)

    def _put(self, event: Event | Exception) -> None:
        newest = self._events[-1] if self._events else None
        if (
            isinstance(event, ProvisionalOutput)
            and isinstance(newest, ProvisionalOutput)
            and newest.request_id == event.request_id
        ):
            self._events.pop()  # out of date before it was read
        self._events.append(event)
        self._has_events.set()

    async def get(self) -> Event | Exception:
        """The next one, waited for; an error is what ends them."""
        while not self._events:
            self._has_events.clear()
            await self._has_events.wait()
        return self._events.popleft()
