"""Which of the requests that could take a step do, and how many refresh in it: pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

PATIENCE: Final = 8
"""Steps that a request can be left out of in a row before it comes ahead of everyone."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """What selection knows of a request that could take part in the step."""

    num_rows: int
    """Of the forward, if it takes part."""

    is_refresh: bool
    """Whether these are all or most of its rows, rather than those of its block."""

    priority: int
    """Lower comes first."""

    waited: int
    """Steps in a row that it was left out of."""

    arrival: int
    """Requests in the order in which they came; no two are equal."""

    refresh_rate: float = 0.0
    """Rows of refreshes that it has needed per step on average."""


def select(
    candidates: Sequence[Candidate], *, max_rows: int, max_refresh_rows: int | None = None
) -> list[int]:
    """Who takes part in a step: indices of candidates, ascending.

    Whoever has waited ``PATIENCE`` steps comes first; then lower priorities; among these steps
    inside a block, which keep the batch going and cost little more than the weights they share,
    before refreshes; then who has waited longer, and who came earlier. Nobody is overtaken by
    smaller requests: the first that does not fit ends the step, and a refresh that is put off
    puts off those behind it.

    Args:
        candidates: In any order.
        max_rows: Rows of the whole step.
        max_refresh_rows: Rows of its refreshes, of which the first always has a place; None sets
            no bound.

    Returns:
        At least one index if there are candidates, none of which has more than ``max_rows``.
    """

    def urgency(index: int) -> tuple[bool, int, bool, int, int]:
        each = candidates[index]
        if each.waited >= PATIENCE:
            return False, 0, False, -each.waited, each.arrival
        return True, each.priority, each.is_refresh, -each.waited, each.arrival

    chosen: list[int] = []
    refresh_rows = 0
    refreshes_end = False
    for index in sorted(range(len(candidates)), key=urgency):
        each = candidates[index]
        if each.is_refresh:
            over = max_refresh_rows is not None and refresh_rows + each.num_rows > max_refresh_rows
            refreshes_end = refreshes_end or (over and refresh_rows > 0)
            if refreshes_end:
                continue
        if each.num_rows > max_rows:
            break
        max_rows -= each.num_rows
        refresh_rows += each.num_rows if each.is_refresh else 0
        chosen.append(index)
    return sorted(chosen)


def paced_refresh_rows(candidates: Sequence[Candidate], ridge_rows: int) -> int:
    """Rows of refreshes to allow in a step, so that they spread evenly over steps.

    Requests that refresh at the same steps make these steps long, and leave the others so few rows
    that they cost what reading the weights costs. Once put off, a request keeps its distance to
    the others. A tenth more than what all need on average keeps a queue from growing.

    Args:
        candidates: As for :func:`select`.
        ridge_rows: Rows up to which a step takes about the same time; refreshes fill it up to them.
    """
    block_rows = sum(each.num_rows for each in candidates if not each.is_refresh)
    needed = sum(each.refresh_rate for each in candidates)
    return max(ridge_rows - block_rows, math.ceil(1.1 * needed))
