"""How fast a device moves bytes and multiplies matrices at best: the two sides of its roofline."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch

from starr_engine.bench.work import Work
from starr_engine.errors import ConfigError

_REPEATS: Final = 8
_TRIAD_BYTES: Final = 2**27
"""Of each of three arrays: more than caches hold."""

_SIDE: Final = {"cpu": 1024, "cuda": 8192}
"""Of the square matrices that are multiplied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peaks:
    """Of one device, in one dtype.

    Raises:
        ConfigError: If a number is not above 0.
    """

    bytes_per_s: float
    flops_per_s: float

    def __post_init__(self) -> None:
        for name in ("bytes_per_s", "flops_per_s"):
            if not 0 < (value := getattr(self, name)) < float("inf"):
                raise ConfigError(f"the peak {name} must be above 0, got {value}")

    def least_seconds(self, work: Work) -> float:
        """What the work takes at the least: moving its bytes, or computing, whichever is longer."""
        return max(work.num_bytes / self.bytes_per_s, work.flops / self.flops_per_s)


def measure_peaks(device: torch.device, dtype: torch.dtype) -> Peaks:
    """The best of some runs of a sum of two large arrays, as STREAM does it, and of a product.

    Args:
        device: With the threads that the engine uses.
        dtype: Of the matrices.
    """
    count = _TRIAD_BYTES // dtype.itemsize
    left, right, out = (torch.ones(count, dtype=dtype, device=device) for _ in range(3))
    bytes_s = _best(lambda: torch.add(left, right, alpha=2.0, out=out), device)
    side = _SIDE[device.type]
    matrix = torch.ones(side, side, dtype=dtype, device=device)
    product = torch.empty_like(matrix)
    product_s = _best(lambda: torch.mm(matrix, matrix, out=product), device)
    return Peaks(bytes_per_s=3 * left.nbytes / bytes_s, flops_per_s=2.0 * side**3 / product_s)


def _best(call: Callable[[], object], device: torch.device) -> float:
    """Least seconds of a call, the first not counted."""
    seconds = []
    for _ in range(_REPEATS + 1):
        _wait(device)
        start = time.perf_counter()
        call()
        _wait(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
