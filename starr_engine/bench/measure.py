"""A whole measurement: warm-up, the load, its profile."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Final

from starr_engine.bench.busy import gpu_busy_share
from starr_engine.bench.load import Load
from starr_engine.bench.peaks import Peaks
from starr_engine.bench.profiler import StepProfiler
from starr_engine.bench.report import load_report, profile_report
from starr_engine.bench.run import run_load
from starr_engine.engine.engine import Engine

_BUSY_TOKENS: Final = 64
"""Most tokens of a request that the GPU's profiler watches: a step has many hundred kernels."""

_BUSY_REQUESTS: Final = 32
"""Requests that it watches in an open loop; in a closed one as many as run at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What was found, and the profile that the Chrome trace is made of."""

    report: dict[str, Any]
    """``result``; with a profile also ``profile``, and on CUDA ``gpu_busy_share``."""

    profile: StepProfiler | None


def measure(
    engine: Engine, load: Load, *, warmup: Load | None, profile: bool, peaks: Peaks | None = None
) -> Measurement:
    """Run a load and report on it.

    Args:
        engine: Idle.
        load: What is measured.
        warmup: Run first and not counted.
        profile: Whether phases are timed, which costs some microseconds a step, and on CUDA
            whether a part of the load runs once more under the GPU's profiler.
        peaks: Of the device, for the roofline.

    Raises:
        RequestError: If a request cannot run or fails.
    """
    if warmup is not None:
        run_load(engine, warmup)
        engine.reset_caches()
    profiler = StepProfiler()
    with profiler.watch(engine) if profile else nullcontext():
        result = run_load(engine, load)
    report: dict[str, Any] = {"result": load_report(result)}
    if profile:
        report["profile"] = profile_report(profiler, peaks)
        if engine.device.type == "cuda":
            part = beginning(load)
            engine.reset_caches()
            report["gpu_busy_share"] = gpu_busy_share(lambda: run_load(engine, part), engine.device)
    return Measurement(report=report, profile=profiler if profile else None)


def beginning(load: Load) -> Load:
    """The first requests of a load, as many as run at once, and of each the first tokens."""
    requests = tuple(
        replace(
            each,
            params=replace(each.params, max_tokens=min(each.params.max_tokens, _BUSY_TOKENS)),
        )
        for each in load.requests[: load.concurrency or _BUSY_REQUESTS]
    )
    return replace(load, requests=requests)
