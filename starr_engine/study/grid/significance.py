"""Whether a setting differs from the baseline on the same problems."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from starr_engine.study.intervals import Z_95, Interval

NUM_RESAMPLES: Final = 1000


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided McNemar test: the p-value of so uneven a split, or a more uneven one.

    Answers are right or wrong, and of the same problems, so that only those problems say
    something which one setting solves and the other does not; under the null hypothesis each of
    these goes either way with probability 1/2. Exact, because they are few.

    Args:
        gained: Problems that only the setting solves.
        lost: Problems that only the baseline solves.

    Source:
        Q. McNemar, "Note on the sampling error of the difference between correlated proportions",
        1947.
    """
    count = gained + lost
    tail: int = sum(math.comb(count, each) for each in range(min(gained, lost) + 1))
    doubled: int = 2 * tail
    return min(1.0, doubled / (1 << count))  # integers until here: exact for any count


def difference_interval(gained: float, lost: float, count: float, z: float = Z_95) -> Interval:
    """Score interval of the difference of two shares on the same problems, setting - baseline.

    Of all differences d those are kept that a score test does not refuse: with q the likeliest
    share of losses given d, ``|gained - lost - count * d| <= z * sqrt(count * (2q + d(1 - d)))``.
    Like Wilson's interval it says something where no problem is lost at all: 0 of 40 leaves a loss
    of 8.8 points possible, where an interval from the sample's variance would be a point.

    Args:
        gained: Problems that only the setting solves.
        lost: Problems that only the baseline solves.
        count: All problems; above 0.
        z: Normal quantile; 95 % by default.

    Source:
        T. Tango, "Equivalence test and confidence interval for the difference in proportions for
        the paired-sample design", Statistics in Medicine 17, 1998.
    """
    if count <= 0:
        raise ValueError(f"an interval needs at least one problem, got {count}")

    def refuses(difference: float) -> bool:
        square = 2 * count
        linear = (2 * count - gained + lost) * difference - gained - lost
        constant = -lost * difference * (1 - difference)
        root = math.sqrt(max(0.0, linear * linear - 4 * square * constant))
        variance = count * ((root - linear) / square + difference * (1 - difference))
        return abs(gained - lost - count * difference) > z * math.sqrt(max(0.0, variance))

    middle = (gained - lost) / count
    return _edge(middle, -1.0, refuses), _edge(middle, 1.0, refuses)


def _edge(inside: float, outside: float, refuses: Callable[[float], bool]) -> float:
    """The last value on the way from ``inside`` to ``outside`` that is not refused."""
    if not refuses(outside):
        return outside
    for _ in range(60):
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if refuses(middle) else (middle, outside)
    return inside


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values for looking at all of them at once: the chance of any false finding is kept.

    Source:
        S. Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, at in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[at]))
        adjusted[at] = highest
    return adjusted


def ratio_interval(
    base: Sequence[float], other: Sequence[float], *, resamples: int = NUM_RESAMPLES, seed: int = 0
) -> Interval:
    """95 % interval of ``mean(base) / mean(other)`` over the same problems, by paired bootstrap.

    Forwards are counts with long tails that go together with the problem, which no formula for a
    ratio's variance takes in; a resample draws problems, the same for both.

    Args:
        base: Positive, one per problem.
        other: Positive, of the same problems in the same order.
        resamples: Draws.
        seed: Equal seeds give equal intervals.
    """
    counts = _resamples(len(base), resamples, seed)
    ratios = (counts @ np.asarray(base, np.float64)) / (counts @ np.asarray(other, np.float64))
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(low), float(high)


@lru_cache(maxsize=8)  # every pair of a study draws the same problems
def _resamples(num_problems: int, resamples: int, seed: int) -> NDArray[np.float64]:
    """How often each resample drew each problem, ``[resamples, problems]``."""
    shares = np.full(num_problems, 1 / num_problems)
    drawn = np.random.default_rng(seed).multinomial(num_problems, shares, size=resamples)
    return drawn.astype(np.float64)
