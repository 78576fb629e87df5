"""For which share of the time a GPU has anything to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch.profiler import ProfilerActivity, profile


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals (start, stop)."""
    total, reached = 0.0, float("-inf")
    for start, stop in sorted(intervals):
        total += max(0.0, stop - max(start, reached))
        reached = max(reached, stop)
    return total


def gpu_busy_share(run: Callable[[], object], device: torch.device) -> float:
    """Share of the time from the first kernel to the end of the last in which one runs.

    Copies count as kernels. The profiler itself takes some of the host's time, so the share of an
    engine that the host holds up is rather higher.

    Args:
        run: Steps an engine for a second or so, after a warm-up.
        device: A CUDA device that nobody else uses.
    """
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        run()
        torch.cuda.synchronize(device)
    intervals = [
        (event.time_range.start, event.time_range.end)
        for event in found.events() or ()
        if event.device_type.name == "CUDA"
    ]
    if not intervals:
        return 0.0
    seconds = max(stop for _, stop in intervals) - min(start for start, _ in intervals)
    return float(covered(intervals) / seconds)
