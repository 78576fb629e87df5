"""The ops on pages against their PyTorch references; tests/gpu runs the same cases on CUDA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from starr_engine import ops
from tests.helpers import page_op_cases
from tests.helpers.op_cases import CACHE_DTYPES, NUM_TOKENS, ROW_SHAPES, SHIFTS

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", CACHE_DTYPES)
@pytest.mark.parametrize("num_rows", NUM_TOKENS)
def test_store_rows_writes_what_the_reference_writes(num_rows: int, dtype: torch.dtype) -> None:
    page_op_cases.check_store_rows_count(CPU, dtype, num_rows)


@pytest.mark.parametrize("width", page_op_cases.WIDTHS)
def test_store_rows_copies_rows_of_any_width(width: int) -> None:
    page_op_cases.check_store_rows_width(CPU, width)


def test_store_rows_takes_rows_that_lie_apart() -> None:
    page_op_cases.check_store_rows_apart(CPU)


@pytest.mark.parametrize("shift", SHIFTS)
def test_rows_and_pages_may_lie_at_any_address(shift: int) -> None:
    page_op_cases.check_alignments(CPU, shift)


def test_store_rows_stores_keys_or_values_alone() -> None:
    page_op_cases.check_store_rows_stores_values_alone(CPU)


@pytest.mark.parametrize("dtype", CACHE_DTYPES)
@pytest.mark.parametrize("count", NUM_TOKENS)
def test_gather_rows_reads_what_the_reference_reads(count: int, dtype: torch.dtype) -> None:
    for width in page_op_cases.WIDTHS:
        page_op_cases.check_gather_rows(CPU, dtype, count, width)


@pytest.mark.parametrize("dtype", CACHE_DTYPES)
@pytest.mark.parametrize(("source", "target"), page_op_cases.PAGE_COPIES)
def test_copy_pages_copies_what_the_reference_copies(
    source: list[int], target: list[int], dtype: torch.dtype
) -> None:
    page_op_cases.check_copy_pages(CPU, dtype, source, target)


@pytest.mark.parametrize("row", ROW_SHAPES)
def test_copy_pages_copies_pages_of_any_width(row: tuple[int, int]) -> None:
    page_op_cases.check_copy_pages(CPU, torch.bfloat16, [1, 4], [0, 2], row=row, page_size=1)


def test_copy_pages_copies_many_and_large_pages() -> None:
    page_op_cases.check_copy_pages(
        CPU, torch.float16, range(400), range(400, 800), num_pages=800, row=(1, 4)
    )
    page_op_cases.check_copy_pages(
        CPU, torch.float32, [2], [0], num_pages=3, row=(8, 128), page_size=37
    )


@pytest.mark.parametrize("dtype", CACHE_DTYPES)
@pytest.mark.parametrize("row", page_op_cases.SIMILARITY_ROWS)
def test_row_similarity_is_as_exact_as_torch(row: tuple[int, int], dtype: torch.dtype) -> None:
    for num_rows in NUM_TOKENS:
        page_op_cases.check_row_similarity(CPU, dtype, row, num_rows)


@pytest.mark.parametrize("dtype", CACHE_DTYPES)
def test_row_similarity_takes_rows_that_lie_apart(dtype: torch.dtype) -> None:
    page_op_cases.check_row_similarity_apart(CPU, dtype)


@pytest.mark.parametrize("dtype", CACHE_DTYPES)
def test_a_row_that_did_not_change_has_a_similarity_of_exactly_one(dtype: torch.dtype) -> None:
    page_op_cases.check_rows_that_did_not_change(CPU, dtype)


@pytest.mark.parametrize("dtype", CACHE_DTYPES)
def test_row_similarity_of_special_rows(dtype: torch.dtype) -> None:
    page_op_cases.check_special_rows(CPU, dtype)


def test_row_similarity_reads_every_float16() -> None:
    page_op_cases.check_every_float16(CPU)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.9, 1.0])
@pytest.mark.parametrize("lengths", page_op_cases.SEGMENTS)
def test_select_lowest_selects_what_the_reference_selects(
    lengths: tuple[int, ...], share: float
) -> None:
    page_op_cases.check_select_lowest_of_segments(CPU, lengths, share)


def test_select_lowest_takes_more_segments_than_one_launch() -> None:
    page_op_cases.check_select_lowest_of_segments(CPU, [*range(20)] * 21, 0.4)


@pytest.mark.parametrize("case", page_op_cases.OPCHECK_CASES)
def test_ops_are_registered_as_torch_expects(case: str) -> None:
    page_op_cases.check_registration(CPU, case)


def test_page_numbers_may_be_those_of_numpy() -> None:
    pages = np.array([[1, 3], [0, 2]], np.int32)
    page_op_cases.check_copy_pages(CPU, torch.float32, pages[0], pages[1])
    page_op_cases.check_select_lowest(torch.randn(7), np.array([0, 3, 7], np.int32), pages[1])


FLOATS = st.floats(width=32) | st.sampled_from([0.0, -0.0, 1.0, float("nan"), -float("inf")])


@given(st.data(), st.lists(st.lists(FLOATS, max_size=12), max_size=4))
def test_select_lowest_is_a_stable_sort_with_nan_first(
    data: st.DataObject, segments: list[list[float]]
) -> None:
    counts = [data.draw(st.integers(0, len(segment))) for segment in segments]
    expected: list[int] = []
    bounds = [0]
    for segment, count in zip(segments, counts, strict=True):
        # NaN is the only value that differs from itself.
        order = sorted(range(len(segment)), key=lambda i, s=segment: (s[i] == s[i], s[i], i))
        nan_first = [i for i in order if segment[i] != segment[i]]
        rest = [i for i in order if segment[i] == segment[i]]
        expected += sorted(bounds[-1] + i for i in (sorted(nan_first) + rest)[:count])
        bounds.append(bounds[-1] + len(segment))
    values = torch.tensor([x for segment in segments for x in segment], dtype=torch.float32)
    assert ops.select_lowest(values, bounds, counts).tolist() == expected


@given(st.permutations(range(8)), st.lists(st.integers(0, 7), max_size=8), st.integers(0, 8))
def test_pages_that_are_no_target_stay_as_they_are(
    pages: list[int], picks: list[int], num_targets: int
) -> None:
    targets, others = pages[:num_targets], pages[num_targets:]
    pairs = [(others[pick % len(others)], t) for pick, t in zip(picks, targets, strict=False)
             if others]  # fmt: skip
    tensor = torch.arange(2 * 2 * 8 * 3.0).view(2, 2, 8, 3, 1, 1)
    before = tensor.clone()
    ops.copy_pages(tensor, [old for old, _ in pairs], [new for _, new in pairs])
    came_from = list(range(8))
    for old, new in pairs:
        came_from[new] = old
    assert torch.equal(tensor, before[:, :, came_from])


def test_similarities_do_not_depend_on_the_number_of_threads_or_on_the_other_rows() -> None:
    cache, rows = torch.randn(8, 16, 4, 128), torch.randn(128, 4, 128)
    slots = torch.randperm(128)
    torch.set_num_threads(1)
    alone = ops.row_similarity(rows, cache, slots)
    torch.set_num_threads(2)
    assert torch.equal(alone, ops.row_similarity(rows, cache, slots))
    one = ops.row_similarity(rows[7:8].clone(), cache, slots[7:8].clone())
    assert torch.equal(one, alone[7:8])


def test_selections_and_copies_do_not_depend_on_the_number_of_threads() -> None:
    values, bounds, counts = torch.randn(64 * 500), range(0, 64 * 500 + 1, 500), [100] * 64
    pages = torch.randn(4, 2, 64, 16, 2, 64)
    other = pages.clone()
    torch.set_num_threads(1)
    alone = ops.select_lowest(values, bounds, counts)
    ops.copy_pages(pages, range(32), range(32, 64))
    torch.set_num_threads(2)
    ops.copy_pages(other, range(32), range(32, 64))
    assert torch.equal(alone, ops.select_lowest(values, bounds, counts))
    assert torch.equal(pages, other)


def _call(op: Callable[..., object], **changes: Any) -> Callable[[], object]:
    arguments: dict[str, Any] = {
        ops.store_rows: {"rows": torch.zeros(2, 12), "pages": torch.zeros(5, 8, 12)},
        ops.gather_rows: {"pages": torch.zeros(5, 8, 12)},
        ops.copy_pages: {"pages": torch.zeros(2, 2, 5, 8, 3, 4), "source": [0], "target": [4]},
        ops.row_similarity: {"rows": torch.zeros(2, 3, 4), "cache": torch.zeros(5, 8, 3, 4)},
        ops.select_lowest: {"values": torch.zeros(7), "cu_rows": [0, 3, 7], "counts": [1, 4]},
    }[op]
    if op not in (ops.copy_pages, ops.select_lowest):
        arguments["slots"] = torch.tensor([1, 2])
    return lambda: op(**arguments | changes)


_STORE, _GATHER, _COPY = ops.store_rows, ops.gather_rows, ops.copy_pages
_SIMILAR, _SELECT = ops.row_similarity, ops.select_lowest
WRONG_CALLS = {
    "store_rows: rows must be [T, F], got 3 dimensions": _call(_STORE, rows=torch.zeros(2, 3, 4)),
    "store_rows: rows must be [2, 12] for these slots and pages, got [3, 12]": _call(
        _STORE, rows=torch.zeros(3, 12)
    ),
    "store_rows: rows are Half, the pages are Float": _call(_STORE, rows=torch.zeros(2, 12).half()),
    "store_rows: each row must be contiguous, got stride 2": _call(
        _STORE, rows=torch.zeros(12, 2).t()
    ),
    "store_rows: pages must be [P, G, F], got 4 dimensions": _call(
        _STORE, pages=torch.zeros(5, 8, 3, 4)
    ),
    "store_rows: pages must be contiguous": _call(
        _STORE, pages=torch.zeros(5, 12, 8).transpose(1, 2)
    ),
    "store_rows: slots must be int64, got Int": _call(_STORE, slots=torch.tensor([1, 2]).int()),
    "store_rows: slots[1] is 40, the cache has 40 slots": _call(
        _STORE, slots=torch.tensor([-1, 40])
    ),
    "gather_rows: pages must be [P, G, F], got 2 dimensions": _call(
        _GATHER, pages=torch.zeros(40, 12)
    ),
    "gather_rows: slots must be a contiguous vector, got 2 dimensions": _call(
        _GATHER, slots=torch.zeros(1, 2, dtype=torch.int64)
    ),
    "gather_rows: slots[0] is -1, the cache has 40 slots": _call(
        _GATHER, slots=torch.tensor([-1, 2])
    ),
    "copy_pages: pages must be [L, C, P, G, K, D], got 5 dimensions": _call(
        _COPY, pages=torch.zeros(2, 5, 8, 3, 4)
    ),
    "copy_pages: pages must be contiguous": _call(
        _COPY, pages=torch.zeros(2, 2, 5, 8, 4, 3).transpose(4, 5)
    ),
    "copy_pages: source has 1 pages, target has 2": _call(_COPY, target=[3, 4]),
    "copy_pages: source[0] is -1, there are 5 pages": _call(_COPY, source=[-1]),
    "copy_pages: target[0] is 5, there are 5 pages": _call(_COPY, target=[5]),
    "copy_pages: page 4 is a target twice": _call(_COPY, source=[0, 1], target=[4, 4]),
    "copy_pages: page 1 is a source and a target": _call(_COPY, source=[0, 1], target=[1, 3]),
    "row_similarity: rows must be [T, K, D], got 2 dimensions": _call(
        _SIMILAR, rows=torch.zeros(2, 12)
    ),
    "row_similarity: rows must be [2, 3, 4] for this slots and cache, got [2, 4, 3]": _call(
        _SIMILAR, rows=torch.zeros(2, 4, 3)
    ),
    "row_similarity: rows is BFloat16, the cache is Float": _call(
        _SIMILAR, rows=torch.zeros(2, 3, 4).bfloat16()
    ),
    "row_similarity: the last two dimensions of rows must be contiguous, got strides 1 and 3": (
        _call(_SIMILAR, rows=torch.zeros(2, 4, 3).transpose(1, 2))
    ),
    "row_similarity: cache must be [P, G, K, D], got 3 dimensions": _call(
        _SIMILAR, cache=torch.zeros(40, 3, 4)
    ),
    "row_similarity: cache must be contiguous": _call(
        _SIMILAR, cache=torch.zeros(5, 8, 4, 3).transpose(2, 3)
    ),
    "row_similarity: cache must be float32, bfloat16 or float16, got Double": _call(
        _SIMILAR, cache=torch.zeros(5, 8, 3, 4).double()
    ),
    "row_similarity: slots[0] is 41, the cache has 40 slots": _call(
        _SIMILAR, slots=torch.tensor([41, 2])
    ),
    "select_lowest: values must be a contiguous vector, got 2 dimensions": _call(
        _SELECT, values=torch.zeros(1, 7)
    ),
    "select_lowest: values must be float32, got Double": _call(
        _SELECT, values=torch.zeros(7).double()
    ),
    "select_lowest: cu_rows must have 3 entries for 2 counts, got 2": _call(
        _SELECT, cu_rows=[0, 7]
    ),
    "select_lowest: cu_rows must go from 0 to the number of values, 7, got 0 to 6": _call(
        _SELECT, cu_rows=[0, 3, 6]
    ),
    "select_lowest: cu_rows must not decrease, got 8 before 7": _call(_SELECT, cu_rows=[0, 8, 7]),
    "select_lowest: counts[1] is 5, the segment has 4 values": _call(_SELECT, counts=[1, 5]),
    "select_lowest: counts[0] is -1, the segment has 3 values": _call(_SELECT, counts=[-1, 4]),
}


@pytest.mark.parametrize("message", WRONG_CALLS)
def test_a_wrong_argument_is_named(message: str) -> None:
    with pytest.raises(RuntimeError) as error:
        WRONG_CALLS[message]()
    assert message in str(error.value)


def test_a_refused_call_writes_nothing() -> None:
    pages = torch.zeros(2, 4, 3)
    with pytest.raises(RuntimeError, match="is 8"):
        ops.store_rows(torch.ones(3, 3), pages, torch.tensor([0, 1, 8]))
    assert pages.count_nonzero() == 0
    pool = torch.arange(3.0).view(1, 1, 3, 1, 1, 1)
    with pytest.raises(RuntimeError, match="there are 3 pages"):
        ops.copy_pages(pool, [1, 1], [0, 3])
    assert pool.flatten().tolist() == [0, 1, 2]
