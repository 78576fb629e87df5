"""What backends are told on the host, against what the device is told."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from starr_engine.engine.host_layout import reads_prefix, visible_runs

ROWS = st.lists(st.tuples(st.lists(st.integers(1, 4), max_size=8), st.integers(0, 2)), max_size=5)


def test_rows_that_see_equally_many_are_one_run() -> None:
    visible = np.array([4, 4, 8, 8, 8, 8, 9, 9, 5, 5], np.int32)
    cu_query = np.array([0, 5, 8, 10], np.int32)
    shadows, limited = np.array([1, 0, 0], np.int32), np.array([1, 1, 0], np.int32)
    assert visible_runs(visible, cu_query, shadows, limited) == (
        ((2, 4), (2, 8)),
        ((1, 8), (2, 9)),
        (),
    )


@given(ROWS)
def test_the_runs_of_a_request_are_its_own_rows(rows: list[tuple[list[int], int]]) -> None:
    visible = np.array([n for own, shadow in rows for n in [*own, *[9] * shadow]], np.int32)
    lens = [len(own) + shadow for own, shadow in rows]
    cu_query = np.cumsum([0, *lens], dtype=np.int32)
    shadows = np.array([shadow for _, shadow in rows], np.int32)
    runs = visible_runs(visible, cu_query, shadows, np.ones(len(rows), np.int32))
    assert [[seen for count, seen in each for _ in range(count)] for each in runs] == [
        own for own, _ in rows
    ]
    for each in runs:
        assert all(a[1] != b[1] for a, b in pairwise(each))


def test_a_prefix_is_one_range_from_the_first_row_read_through_pages() -> None:
    reads = [((0, 8),), ((0, 8),), ((0, 4), (6, 8)), ((4, 8),)]
    paged_lens = np.array([8, 0, 6, 4], np.int32)
    assert reads_prefix(reads, paged_lens) == (True, False, False, False)
