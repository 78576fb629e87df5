"""The calls of the engine that one HTTP request takes, as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from starr_engine.engine.thread import Event
from starr_engine.outputs import RequestOutput
from starr_engine.samples import sample_id
from starr_engine.serve.inputs import Work
from starr_engine.serve.protocol import ServedEngine

T = TypeVar("T")

_QUEUED_EVENTS: Final = 16
"""Of all prompts of a stream; beyond it they wait in the engine's own inboxes."""


async def generate(engine: ServedEngine, work: Work, request_id: str) -> list[RequestOutput]:
    """All samples of all prompts, in order; whatever ends this ends them.

    Raises:
        RequestError: If a prompt cannot run.
        EngineDeadError: If the engine fails.
    """
    if work.messages:
        calls = [engine.chat(work.messages, work.params, request_id=request_id)]
    else:
        calls = [
            engine.generate(prompt, work.params, request_id=f"{request_id}-{number}")
            for number, prompt in enumerate(work.prompts)
        ]
    firsts = await _all_or_none(calls)
    return [sample for first in firsts for sample in first.samples]


async def stream(
    engine: ServedEngine, work: Work, request_id: str
) -> AsyncGenerator[tuple[int, Event], None]:
    """What happens to the choices, as it happens, with the choice's number.

    Raises:
        RequestError: If a prompt cannot run.
        EngineDeadError: If the engine fails.
    """
    sources = [_numbered(engine, work, number, request_id) for number in range(work.num_prompts)]
    async with aclosing(sources[0] if len(sources) == 1 else _merged(sources)) as events:
        async for numbered in events:
            yield numbered


async def _numbered(
    engine: ServedEngine, work: Work, number: int, request_id: str
) -> AsyncGenerator[tuple[int, Event], None]:
    """The events of one prompt's samples."""
    name = f"{request_id}-{number}"
    first = number * work.params.n
    indices = {sample_id(name, sample): first + sample for sample in range(work.params.n)}
    if work.messages:
        events = engine.stream_chat(
            work.messages, work.params, request_id=name, provisional=work.provisional
        )
    else:
        events = engine.stream(
            work.prompts[number], work.params, request_id=name, provisional=work.provisional
        )
    async with aclosing(events):
        async for event in events:
            yield indices[event.request_id], event


async def _all_or_none(calls: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results in order; where one fails, the others are cancelled."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        await _cancel(tasks)


async def _merged(sources: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
    """The items of all sources as they come; the first error ends them all."""
    queue: asyncio.Queue[T | _End] = asyncio.Queue(_QUEUED_EVENTS)

    async def pump(source: AsyncGenerator[T, None]) -> None:
        error: Exception | None = None
        try:
            async with aclosing(source):
                async for item in source:
                    await queue.put(item)
        except Exception as raised:
            error = raised
        await queue.put(_End(error))

    tasks = [asyncio.ensure_future(pump(source)) for source in sources]
    try:
        unfinished = len(tasks)
        while unfinished:
            item = await queue.get()
            if not isinstance(item, _End):
                yield item
            elif item.error is not None:
                raise item.error
            else:
                unfinished -= 1
    finally:
        await _cancel(tasks)


@dataclass(frozen=True, slots=True)
class _End:
    """Behind the last item of a source."""

    error: Exception | None


async def _cancel(tasks: Sequence[asyncio.Future[Any]]) -> None:
    """Cancel what still runs and wait until it has ended; its errors are no news."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
