"""Cost against level: what no setting beats, and reading a curve at a level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

ROUNDING: Final = 1e-12
"""Means of equal numbers may differ by this much, summed in another order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A setting as a point: what it costs and what it reaches."""

    cost: float
    """Mean forwards; less is better."""

    level: float
    """Agreement or accuracy; more is better."""


def front(points: Sequence[Point]) -> list[int]:
    """Indices of the points that no other point beats, by rising cost.

    A point is beaten by one that is at least as good in both and better in one; of equal points the
    first stands for all.
    """
    order = sorted(range(len(points)), key=lambda at: (points[at].cost, -points[at].level, at))
    best: list[int] = []
    for at in order:
        if not best or points[at].level > points[best[-1]].level:
            best.append(at)
    return best


def layers(points: Sequence[Point]) -> list[int]:
    """How many fronts must be taken away before a point is on the front, for every point."""
    depth = [0] * len(points)
    left = list(range(len(points)))
    layer = 0
    while left:
        on_front = {left[at] for at in front([points[at] for at in left])}
        for at in on_front:
            depth[at] = layer
        left = [at for at in left if at not in on_front]
        layer += 1
    return depth


def cost_at(curve: Sequence[Point], level: float) -> float | None:
    """What a curve costs at a level: straight lines between the points of its front.

    Below its cheapest point the curve costs what that point does, since no setting of it was
    measured to cost less.

    Returns:
        None if no point of the curve reaches the level.
    """
    best = [curve[at] for at in front(curve)]
    for at, point in enumerate(best):
        if point.level >= level - ROUNDING:
            if at == 0:
                return point.cost
            before = best[at - 1]
            share = min(1.0, (level - before.level) / (point.level - before.level))
            return before.cost + share * (point.cost - before.cost)
    return None
