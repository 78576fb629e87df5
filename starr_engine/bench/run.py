"""Put a load on an engine, and note when things happen to its requests."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from starr_engine.bench.load import Load, LoadRequest
from starr_engine.engine.engine import Engine
from starr_engine.errors import RequestError
from starr_engine.outputs import RequestOutput


@dataclass(slots=True, kw_only=True)
class RequestTimes:
    """What became of one request; seconds from the load's beginning."""

    due_s: float
    """When it came: in an open loop when it was due, even if the engine was busy then, so that
    waiting for a step counts."""

    blocks_s: list[float] = field(default_factory=list)
    """When each of its blocks was handed out."""

    end_s: float = 0.0
    output: RequestOutput | None = None
    """None until it ends."""

    @property
    def block_gaps_s(self) -> list[float]:
        """Of each block, the first from its arrival and the others from the one before."""
        return [
            stop - start
            for start, stop in zip([self.due_s, *self.blocks_s], self.blocks_s, strict=False)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult:
    """A load that ran to its end."""

    requests: tuple[RequestTimes, ...]
    """In the order of the load; every one has its output."""

    seconds: float
    """From the beginning to the last output."""

    num_steps: int
    """Of the engine."""


def run_load(
    engine: Engine,
    load: Load,
    *,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> LoadResult:
    """Run a load to its end, in this thread alone: requests are added between steps.

    Args:
        engine: With no unfinished request.
        load: What comes when.
        clock: Seconds.
        sleep: Called while nothing is there to do before the next request is due.

    Raises:
        RequestError: If a request cannot run or fails; the engine is left without requests.
    """
    if engine.has_unfinished:
        raise RequestError("the engine still has requests; finish or abort them first")
    waiting = deque(load.requests)
    times: dict[str, RequestTimes] = {}
    num_unfinished = 0
    steps_before, start = engine.stats().num_steps, clock()
    try:
        while waiting or engine.has_unfinished:
            while waiting and _comes(waiting[0], load, num_unfinished, clock() - start):
                request = waiting.popleft()
                due_s = request.due_s if load.concurrency is None else clock() - start
                request_id = engine.add_request(request.token_ids, request.params)
                times[request_id] = RequestTimes(due_s=due_s)
                num_unfinished += 1
            if not engine.has_unfinished:
                sleep(max(0.0, waiting[0].due_s - (clock() - start)))
                continue
            outputs = engine.step()
            now = clock() - start
            for output in outputs:
                of_request = times[output.request_id]
                if not isinstance(output, RequestOutput):
                    of_request.blocks_s.append(now)
                    continue
                if output.error is not None:
                    raise RequestError(f"{output.request_id} failed: {output.error}")
                of_request.end_s, of_request.output = now, output
                num_unfinished -= 1
    finally:
        for request_id in times:
            engine.abort(request_id)
    return LoadResult(
        requests=tuple(times.values()),
        seconds=clock() - start,
        num_steps=engine.stats().num_steps - steps_before,
    )


def _comes(request: LoadRequest, load: Load, num_unfinished: int, now_s: float) -> bool:
    if load.concurrency is None:
        return request.due_s <= now_s
    return num_unfinished < load.concurrency
