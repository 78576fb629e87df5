"""What every benchmark shares: the clock and the result file."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starr_engine.environment import environment

RESULTS = Path(__file__).parent / "results"


def time_calls(call: Callable[[], object], *, repeats: int, warmup: int = 1) -> list[float]:
    """Seconds of each of ``repeats`` calls, after ``warmup`` calls that are not counted."""
    for _ in range(warmup):
        call()
    samples = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        samples.append(time.perf_counter() - started)
    return samples


def summary(samples: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return {"median_s": middle, "q1_s": low, "q3_s": high}


def write_result(name: str, result: dict[str, Any], output: Path | None = None) -> None:
    """Write ``results/<name>.json`` (or ``output``) and print the same object as the last line."""
    record = {"benchmark": name, "environment": environment()} | result
    path = output or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record))
