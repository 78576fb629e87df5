"""One cell: run its requests and turn the outputs into numbers."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

import numpy as np

from starr_engine.errors import RequestError
from starr_engine.outputs import CacheDrift, RequestOutput
from starr_engine.params import SamplingParams
from starr_engine.study.grid.axes import Cell
from starr_engine.study.grid.bench import Bench, Meter
from starr_engine.study.grid.questions import Questions
from starr_engine.study.grid.results import Measurement, Memory, Timing
from starr_engine.study.intervals import mean, mean_interval, wilson_interval
from starr_engine.study.runner import StudyEngine, Work, run_work

EXACT: Final = "exact"
PROBED_PROBLEMS: Final = 8
PROBE_RATE: Final = 0.25
"""Share of the steps of the first problems that are computed again, without reuse, for drift."""


class StoppedError(Exception):
    """The user has stopped the study in the middle of a cell."""


def measure(
    cell: Cell,
    questions: Questions,
    bench: Bench,
    *,
    is_stopped: Callable[[], bool],
    with_drift: bool = True,
) -> Measurement:
    """Run a cell.

    The timed run has no probes; those of an approximate cache are a second, short run, which is
    left out unless ``with_drift``.

    Raises:
        StoppedError: If ``is_stopped`` said so between two steps.
        RequestError: If a request cannot run.
        CapacityError: If the engine runs out of memory.
    """
    params = cell.params(questions.max_tokens)
    meter = Meter(bench.engine)
    bench.reset_device()
    started = time.perf_counter()
    outputs = _run(meter, questions.prompts, params, is_stopped)
    wall_s = time.perf_counter() - started
    solved = questions.score([output.text for output in outputs])
    memory = Memory(kv_bytes=meter.most_pages * bench.page_bytes, device_bytes=bench.device_bytes())
    label = outputs[0].cache_label
    drift = None
    if with_drift and label != EXACT:
        probed = replace(params, cache_probe_rate=PROBE_RATE)
        drift = _drift(_run(bench.engine, questions.prompts[:PROBED_PROBLEMS], probed, is_stopped))
    forwards = [output.nfe for output in outputs]
    accuracy = mean(solved)
    return Measurement(
        label=label,
        fingerprint=questions.fingerprint,
        accuracy=accuracy,
        accuracy_interval=wilson_interval(accuracy, len(outputs)),
        nfe=mean(forwards),
        nfe_interval=mean_interval(forwards),
        tpf=sum(output.num_unmasked for output in outputs) / sum(forwards),
        rows=mean(output.computed_rows for output in outputs),
        refresh_share=sum(output.num_refreshes for output in outputs) / sum(forwards),
        prompt_tokens=mean(len(prompt) for prompt in questions.prompts),
        output_tokens=mean(len(output.token_ids) for output in outputs),
        drift=drift,
        solved="".join("1" if each else "0" for each in solved),
        forwards=tuple(forwards),
        outputs=tuple(_digest(output) for output in outputs),
        timing=_timing(outputs, wall_s, meter.num_steps),
        memory=memory,
    )


def warm_up(cell: Cell, questions: Questions, bench: Bench) -> None:
    """Let a cell's cache meet a full batch once, before anything is timed.

    Raises:
        CapacityError: If the engine runs out of memory.
    """
    params = replace(cell.params(questions.max_tokens), remasking="threshold", remasking_args={})
    with contextlib.suppress(RequestError):  # the run itself will say so, in its own words
        _run(bench.engine, questions.prompts[: cell.batch_size], params, lambda: False)


def _run(
    engine: StudyEngine,
    prompts: Sequence[tuple[int, ...]],
    params: SamplingParams,
    is_stopped: Callable[[], bool],
) -> list[RequestOutput]:
    found: dict[int, RequestOutput] = {}
    work = [Work(key=at, prompt_token_ids=prompt, params=params)
            for at, prompt in enumerate(prompts)]  # fmt: skip
    at_once = engine.config.max_num_requests
    if not run_work(engine, work, found.__setitem__, is_stopped=is_stopped, at_once=at_once):
        raise StoppedError
    return [found[at] for at in range(len(found))]


def _timing(outputs: Sequence[RequestOutput], wall_s: float, num_steps: int) -> Timing:
    latencies = [output.latency_s for output in outputs]
    return Timing(
        wall_s=wall_s,
        tokens_per_s=sum(len(output.token_ids) for output in outputs) / wall_s,
        latency_p50_s=float(np.quantile(latencies, 0.5)),
        latency_p95_s=float(np.quantile(latencies, 0.95)),
        mean_batch=sum(output.nfe for output in outputs) / num_steps if num_steps else 0.0,
    )


def _drift(outputs: Sequence[RequestOutput]) -> dict[str, Any]:
    """What the probes of all requests found together."""
    probes = [asdict(output.drift) for output in outputs if output.drift is not None]
    compared = sum(each["rows_compared"] for each in probes)
    pooled: dict[str, Any] = asdict(CacheDrift())
    pooled["probe_forwards"] = sum(each["probe_forwards"] for each in probes)
    pooled["rows_compared"] = compared
    if compared:
        seen = [each for each in probes if each["rows_compared"]]
        for name in ("flip_rate", "mean_kl", "mean_confidence_error"):
            pooled[name] = sum(each[name] * each["rows_compared"] for each in seen) / compared
        for name in ("max_kl", "max_confidence_error"):
            pooled[name] = max(each[name] for each in seen)
    return pooled


def _digest(output: RequestOutput) -> str:
    return hashlib.sha256(repr(tuple(output.token_ids)).encode()).hexdigest()[:8]
