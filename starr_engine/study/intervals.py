"""Intervals of shares and means."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

Z_95: Final = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""

Interval = tuple[float, float]


def wilson_interval(share: float, count: int, z: float = Z_95) -> Interval:
    """Score interval of a share; stays within [0, 1] and is sensible at 0 and 1.

    For a mean of values in [0, 1] that are not all 0 or 1 it is too wide rather than too narrow:
    the variance of such values is at most ``share * (1 - share)``.

    Args:
        share: Observed share or mean, in [0, 1].
        count: Observations, at least 1.
        z: Normal quantile; 95 % by default.

    Source:
        E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    if count < 1:
        raise ValueError(f"an interval needs at least one observation, got {count}")
    square = z * z / count
    middle = (share + square / 2) / (1 + square)
    half = z / (1 + square) * math.sqrt(share * (1 - share) / count + square / (4 * count))
    # Exact at the ends, where rounding would leave 1e-17 beside them.
    low = 0.0 if share <= 0.0 else max(0.0, middle - half)
    high = 1.0 if share >= 1.0 else min(1.0, middle + half)
    return low, high


def mean(values: Iterable[float]) -> float:
    """The mean, summed without rounding; 0 of nothing."""
    listed = list(values)
    return math.fsum(listed) / len(listed) if listed else 0.0


def mean_interval(values: Sequence[float], z: float = Z_95) -> Interval:
    """Normal interval of a mean, from the sample's standard deviation; a point for one value."""
    centre = mean(values)
    if len(values) < 2:
        return centre, centre
    variance = math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1)
    half = z * math.sqrt(variance / len(values))
    return centre - half, centre + half
