"""Sets of rows as ranges, against Python's sets."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from starr_engine.cache.rows import (
    RowRanges,
    as_ranges,
    difference,
    intersection,
    num_rows,
    union,
    without_first,
)

row_sets = st.sets(st.integers(0, 20), max_size=12)


def members(rows: RowRanges) -> set[int]:
    return {row for start, stop in rows for row in range(start, stop)}


def assert_normal(rows: RowRanges) -> None:
    """Ascending, not empty, not touching."""
    assert all(start < stop for start, stop in rows)
    assert all(before[1] < after[0] for before, after in pairwise(rows))


@given(row_sets, row_sets)
def test_they_are_joined_cut_and_counted_as_sets_are(first: set[int], second: set[int]) -> None:
    mine, theirs = as_ranges(sorted(first)), as_ranges(np.array(sorted(second), np.int64))
    assert (members(mine), members(theirs)) == (first, second)
    assert num_rows(mine) == len(first)
    for made, expected in (
        (union(mine, theirs), first | second),
        (intersection(mine, theirs), first & second),
        (difference(mine, theirs), first - second),
    ):
        assert members(made) == expected
        assert_normal(made)


@given(row_sets, st.integers(0, 15))
def test_the_first_rows_are_left_out(rows: set[int], count: int) -> None:
    left = without_first(as_ranges(sorted(rows)), count)
    assert members(left) == set(sorted(rows)[count:])
    assert_normal(left)


def test_ranges_that_touch_are_joined_and_empty_ones_dropped() -> None:
    assert union(((0, 4),), ((4, 8), (9, 9))) == ((0, 8),)
    assert union() == ()
