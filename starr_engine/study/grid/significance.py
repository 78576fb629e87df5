"""Whether a setting differs from the baseline on the same problems."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from starr_engine.study.intervals import Interval

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
