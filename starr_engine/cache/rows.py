"""Sets of rows as sorted, disjoint half-open ranges."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

RowRanges = tuple[tuple[int, int], ...]
"""Sorted, disjoint half-open ranges of rows of one canvas."""


def union(*sets: RowRanges) -> RowRanges:
    """Rows in any of the sets; ranges that touch are joined."""
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(bounds for rows in sets for bounds in rows):
        if start >= stop:
            continue
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], stop))
        else:
            joined.append((start, stop))
    return tuple(joined)


def intersection(first: RowRanges, second: RowRanges) -> RowRanges:
    """Rows in both sets."""
    shared: list[tuple[int, int]] = []
    mine, theirs = list(first), list(second)
    while mine and theirs:
        start, stop = max(mine[0][0], theirs[0][0]), min(mine[0][1], theirs[0][1])
        if start < stop:
            shared.append((start, stop))
        (mine if mine[0][1] <= theirs[0][1] else theirs).pop(0)
    return tuple(shared)


def difference(first: RowRanges, second: RowRanges) -> RowRanges:
    """Rows of the first set that are not in the second."""
    if not first:
        return ()
    edges = [first[0][0], *(edge for bounds in second for edge in bounds), first[-1][1]]
    gaps = ((edges[at], edges[at + 1]) for at in range(0, len(edges), 2))
    return intersection(first, tuple((start, stop) for start, stop in gaps if start < stop))


def covers(first: RowRanges, second: RowRanges) -> bool:
    """Whether the first set has all rows of the second."""
    return not difference(second, first)


def without_first(rows: RowRanges, count: int) -> RowRanges:
    """The set without its first ``count`` rows."""
    left: list[tuple[int, int]] = []
    for start, stop in rows:
        if start + count < stop:
            left.append((start + count, stop))
        count = max(0, count - (stop - start))
    return tuple(left)


def as_ranges(rows: NDArray[np.intp] | Iterable[int]) -> RowRanges:
    """Ascending single rows as ranges."""
    ids = np.asarray(rows if isinstance(rows, np.ndarray) else list(rows), dtype=np.int64)
    if len(ids) == 0:
        return ()
    first, last = int(ids[0]), int(ids[-1])
    if last - first == len(ids) - 1:
        return ((first, last + 1),)
    breaks = np.flatnonzero(np.diff(ids) != 1)
    starts = ids[np.concatenate([[0], breaks + 1])]
    stops = ids[np.concatenate([breaks, [len(ids) - 1]])] + 1
    return tuple(zip(starts.tolist(), stops.tolist(), strict=True))


def num_rows(rows: RowRanges) -> int:
    """How many rows the set has."""
    if len(rows) == 1:  # most often, and asked of every request at every step
        return rows[0][1] - rows[0][0]
    return sum(stop - start for start, stop in rows)
