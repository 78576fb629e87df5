"""Settings against a rival's curve: forwards at equal agreement or accuracy, in pairs."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from starr_engine.study.fronts import Point, cost_at
from starr_engine.study.intervals import Interval

NUM_RESAMPLES: Final = 1000

Values = Sequence[float]
"""One number per problem, in the same order for all settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One setting on all problems."""

    cost: Values
    """Forwards."""

    level: Values
    """Agreement or accuracy, in [0, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A setting against a curve at the setting's own level."""

    level: float
    """What the setting reaches."""

    cost: float
    """Mean forwards of the setting."""

    curve_cost: float | None
    """Mean forwards of the curve at that level; None if no point of it reaches the level."""

    fewer: float | None
    """``1 - cost / curve_cost``: the share of forwards saved; negative if the curve needs fewer."""

    fewer_interval: Interval | None
    """95 % of the resamples in which the curve reaches the setting's level."""

    reached: float
    """Share of the resamples in which it does."""


def compare(
    setting: Measured, curve: Sequence[Measured], *, resamples: int = NUM_RESAMPLES, seed: int = 0
) -> Comparison:
    """Compare in pairs: every resample draws problems, the same for the setting and the curve.

    The curve is read as :func:`~starr_engine.study.fronts.cost_at` does.

    Args:
        setting: What is compared.
        curve: A rival at several values of its argument.
        resamples: Draws of the bootstrap.
        seed: Of the draws.
    """
    everything = [setting, *curve]
    cost = np.array([each.cost for each in everything], np.float64)  # [settings, problems]
    level = np.array([each.level for each in everything], np.float64)
    count = cost.shape[1]
    here = _compare(cost.mean(1), level.mean(1))
    fewer: list[float] = []
    for weights in _resamples(count, resamples, seed):
        there = _compare(cost @ weights, level @ weights)
        if there is not None:
            fewer.append(1.0 - float((cost @ weights)[0]) / there)
    low_high = np.quantile(fewer, (0.025, 0.975)) if fewer else None
    own = float(cost[0].mean())
    return Comparison(
        level=float(level[0].mean()),
        cost=own,
        curve_cost=here,
        fewer=None if here is None else 1.0 - own / here,
        fewer_interval=None if low_high is None else (float(low_high[0]), float(low_high[1])),
        reached=len(fewer) / resamples if resamples else 0.0,
    )


def compare_all(
    settings: Mapping[str, Measured], curves: Mapping[str, Sequence[Measured]]
) -> dict[str, dict[str, Comparison]]:
    """Every setting against every curve, by their names."""
    return {
        name: {curve: compare(setting, points) for curve, points in curves.items()}
        for name, setting in settings.items()
    }


def _compare(costs: NDArray[np.float64], levels: NDArray[np.float64]) -> float | None:
    points = [
        Point(cost=float(cost), level=float(level))
        for cost, level in zip(costs[1:], levels[1:], strict=True)
    ]
    return cost_at(points, float(levels[0]))


def _resamples(count: int, resamples: int, seed: int) -> list[NDArray[np.float64]]:
    """Weights [problems] that sum to 1: how often a problem was drawn, as a share."""
    rng = random.Random(f"bootstrap/{seed}")
    drawn = [rng.choices(range(count), k=count) for _ in range(resamples)]
    return [np.bincount(each, minlength=count) / count for each in drawn]
