"""Where the time of each step goes, taken from outside: an engine that nobody watches pays nothing.

On CUDA a phase is the host's time in it. Kernels run on behind it, and the phase that first asks
for a result, ``decide``, waits for them; a step as a whole ends when its result is there.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from starr_engine.bench.work import Work, WorkCounter
from starr_engine.cache.base import StepKind
from starr_engine.engine.engine import Engine
from starr_engine.engine.step_batch import StepBatch

PHASES: Final = ("schedule", "build", "forward", "logits", "decide", "apply", "collect")
"""The parts of ``Engine.step``; ``logits``, the output head, is taken out of ``forward``."""


@dataclass(frozen=True, slots=True)
class Span:
    """One phase of one step; ``logits`` lies inside ``forward``."""

    phase: str
    start_s: float
    """Of the profiler's clock."""

    stop_s: float
    step: int
    """Index among the profiler's steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One step as a whole."""

    start_s: float
    stop_s: float
    num_requests: int
    num_rows: int
    """Query rows, shadow rows included."""

    num_scored: int
    has_refresh: bool
    """Whether any request computes all of its live rows to reuse them."""

    work: Work | None
    """None if the model is split: this process then has a share of the weights and heads."""

    @property
    def seconds(self) -> float:
        """From the schedule to the outputs."""
        return self.stop_s - self.start_s


class StepProfiler:
    """Notes the spans of every step of an engine while it watches it.

    Args:
        clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._counter: WorkCounter | None = None
        self._batch: StepBatch | None = None
        self.spans: list[Span] = []
        """In the order in which they ended."""

        self.steps: list[StepRecord] = []

    @contextmanager
    def watch(self, engine: Engine) -> Iterator[StepProfiler]:
        """Time the engine's steps inside the ``with`` block; nothing of it stays afterwards."""
        model = engine.executor.model
        self._counter = None if model.ranks else WorkCounter(model)
        parts: list[tuple[str, object, str]] = [
            ("schedule", engine.scheduler, "schedule"),
            ("build", engine.batcher, "check"),
            ("build", engine.decoder, "prepare"),
            ("build", engine.batcher, "lay_out"),
            ("build", engine.executor, "upload"),
            ("forward", engine.executor, "forward"),
            ("logits", model, "compute_logits"),
            ("decide", engine.decoder, "decide"),
            ("decide", engine.decoder, "wait"),
            ("apply", engine.progress, "apply"),
            ("collect", engine.outputs, "collect"),
        ]
        assert tuple(dict.fromkeys(phase for phase, _, _ in parts)) == PHASES
        for phase, owner, name in parts:
            setattr(owner, name, self._timed(phase, getattr(owner, name)))
        try:
            yield self
        finally:
            # The method of the class was only hidden.
            for _, owner, name in parts:
                delattr(owner, name)

    def _timed(self, phase: str, call: Callable[..., Any]) -> Callable[..., Any]:
        clock, note = self._clock, self.spans.append

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = clock()
            result = call(*args, **kwargs)
            note(Span(phase, start, clock(), len(self.steps)))
            if phase == "apply":
                self._batch = args[0]  # the one behind it may be built by now
            elif phase == "collect":
                self._end_step()
            return result

        return timed

    def _end_step(self) -> None:
        batch, counter = self._batch, self._counter
        assert batch is not None
        own = itertools.takewhile(lambda span: span.step == len(self.steps), reversed(self.spans))
        first = min(span.start_s for span in own)
        kinds = {entry.plan.kind for entry in batch.entries}
        self.steps.append(
            StepRecord(
                start_s=first,
                stop_s=self.spans[-1].stop_s,
                num_requests=len(batch.entries),
                num_rows=sum(batch.attention.query_lens),
                num_scored=len(batch.logits_rows),
                has_refresh=not kinds.isdisjoint((StepKind.REFRESH, StepKind.PREFILL)),
                work=counter.count(batch) if counter else None,
            )
        )
        self._batch = None


def phase_seconds(spans: Sequence[Span]) -> dict[str, float]:
    """Seconds of each phase over all spans; the sum is that of the steps."""
    seconds = dict.fromkeys(PHASES, 0.0)
    for span in spans:
        seconds[span.phase] += span.stop_s - span.start_s
    seconds["forward"] -= seconds["logits"]
    return seconds
