"""A profile as trace events, which chrome://tracing and ui.perfetto.dev show as time lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from starr_engine.bench.profiler import StepProfiler

_PROCESS: Final = 1
_STEPS, _PHASES = 1, 2


def trace_events(profile: StepProfiler) -> list[dict[str, Any]]:
    """Steps in one row, phases in the row below it, and the batch's size as a curve.

    Times are microseconds from the first step's beginning.

    Source:
        "Trace Event Format", https://docs.google.com/document/d/
        1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU, JSON object format.
    """
    start_s = profile.steps[0].start_s if profile.steps else 0.0

    def complete(
        name: str, row: int, from_s: float, to_s: float, args: dict[str, Any]
    ) -> dict[str, Any]:
        return {
            "name": name,
            "ph": "X",
            "ts": 1e6 * (from_s - start_s),
            "dur": 1e6 * (to_s - from_s),
            "pid": _PROCESS,
            "tid": row,
            "args": args,
        }

    events: list[dict[str, Any]] = [
        {"name": kind, "ph": "M", "pid": _PROCESS, "tid": row, "args": {"name": name}}
        for kind, row, name in (
            ("process_name", 0, "starr_engine"),
            ("thread_name", _STEPS, "steps"),
            ("thread_name", _PHASES, "phases"),
        )
    ]
    for index, step in enumerate(profile.steps):
        about: dict[str, Any] = {
            "step": index,
            "requests": step.num_requests,
            "rows": step.num_rows,
            "scored_rows": step.num_scored,
        }
        if step.work is not None:
            about["gflops"] = step.work.flops / 1e9
            about["megabytes"] = step.work.num_bytes / 1e6
        name = "refresh step" if step.has_refresh else "block step"
        events.append(complete(name, _STEPS, step.start_s, step.stop_s, about))
        events.append(
            {
                "name": "batch",
                "ph": "C",
                "ts": 1e6 * (step.start_s - start_s),
                "pid": _PROCESS,
                "args": {"requests": step.num_requests, "rows": step.num_rows},
            }
        )
    events += [
        complete(span.phase, _PHASES, span.start_s, span.stop_s, {"step": span.step})
        for span in profile.spans
    ]
    return events


def write_chrome_trace(path: Path, profile: StepProfiler) -> None:
    """Write the events as one JSON object."""
    trace = {"traceEvents": trace_events(profile), "displayTimeUnit": "ms"}
    path.write_text(json.dumps(trace) + "\n", encoding="utf-8")
