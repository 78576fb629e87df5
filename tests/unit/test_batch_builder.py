"""BatchBuilder: the flat arrays of a denoising step."""

import numpy as np
import pytest

from starr_engine._core import BatchBuilder, PagePool, PageTable, PlanError

Arrays = dict[str, np.ndarray]


def empty_arrays(builder: BatchBuilder) -> Arrays:
    """Arrays of the lengths that the builder asks for, full of a value that is never valid."""
    num_requests, num_query = builder.num_requests, builder.num_query_rows
    num_score, num_read = builder.num_score_rows, builder.num_read_rows
    return {
        "input_ids": np.full(num_query, -7, np.int64),
        "positions": np.full(num_query, -7, np.int64),
        "slot_mapping": np.full(num_query, -7, np.int64),
        "cu_query": np.full(num_requests + 1, -7, np.int32),
        "cu_read": np.full(num_requests + 1, -7, np.int32),
        "read_slots": np.full(num_read, -7, np.int64),
        "page_table": np.full((num_requests, builder.max_pages), -7, np.int32),
        "logits_rows": np.full(num_score, -7, np.int64),
        "score_request": np.full(num_score, -7, np.int32),
        "score_positions": np.full(num_score, -7, np.int32),
        "shadow_lens": np.full(num_requests, -7, np.int32),
        "shadow_columns": np.full(num_requests, -7, np.int32),
        "visible": np.full(num_query, -7, np.int32),
        "limited": np.full(num_requests, -7, np.int32),
    }


def fill(builder: BatchBuilder) -> dict[str, list[int]]:
    arrays = empty_arrays(builder)
    builder.fill(**arrays)
    return {name: array.tolist() for name, array in arrays.items()}


def ids(start: int, count: int) -> np.ndarray:
    return np.arange(start, start + count, dtype=np.int32)


def rows(*ids: int) -> np.ndarray:
    return np.array(ids, np.int32)


def make_table(pool: PagePool, num_rows: int, cached: int = 0) -> PageTable:
    table = PageTable.try_create(pool, num_rows)
    assert table is not None
    table.mark_written([(0, cached)])
    return table


def test_a_mixed_batch_is_laid_out_request_by_request() -> None:
    pool = PagePool(num_pages=16, page_size=4)
    dual = make_table(pool, 6, cached=6)  # pages 1, 2
    refresh = make_table(pool, 9)  # pages 3, 4, 5
    builder = BatchBuilder(page_size=4)
    picked = [(1, 2), (3, 5)]
    builder.add(dual, ids(10, 6), picked, picked, [(0, 6)], rows(3, 4), (2, 6))
    builder.add(None, ids(30, 3), [(0, 3)], [], [(0, 3)], rows(0, 2), (0, 3))
    builder.add(refresh, ids(20, 9), [(0, 9)], [(0, 9)], [(0, 9)], rows(8), (8, 9))
    assert builder.num_requests == 3
    assert builder.num_query_rows == 3 + 3 + 9
    assert builder.num_read_rows == 6 + 0 + 9  # the second request reads its own fresh rows
    assert builder.num_score_rows == 2 + 2 + 1
    assert builder.max_pages == 3
    assert fill(builder) == {
        "input_ids": [11, 13, 14, 30, 31, 32, *range(20, 29)],
        "positions": [1, 3, 4, 0, 1, 2, *range(9)],
        # Rows 1, 3 in page 1: 4 + 1, 4 + 3; row 4 in page 2: 8 + 0. Pages 3, 4, 5: from 12 on.
        "slot_mapping": [5, 7, 8, -1, -1, -1, *range(12, 21)],
        "cu_query": [0, 3, 6, 15],
        "cu_read": [0, 6, 6, 15],
        "read_slots": [4, 5, 6, 7, 8, 9, *range(12, 21)],
        "page_table": [[1, 2, 0], [0, 0, 0], [3, 4, 5]],
        # Rows 3 and 4 are the second and third of their request's query rows, and so on.
        "logits_rows": [1, 2, 3, 5, 14],
        "score_request": [0, 0, 1, 1, 2],
        "score_positions": [3, 4, 0, 2, 8],
        "shadow_lens": [0, 0, 0],
        "shadow_columns": [0, 0, 0],
        "visible": [6] * 3 + [3] * 3 + [9] * 9,
        "limited": [0, 0, 0],
    }


def test_rows_computed_but_not_written_have_slot_minus_one() -> None:
    builder = BatchBuilder(page_size=4)
    table = make_table(PagePool(num_pages=4, page_size=4), 8, cached=8)
    builder.add(table, ids(0, 8), [(2, 8)], [(3, 4), (6, 7)], [(0, 2), (6, 7)], rows(), (0, 8))
    batch = fill(builder)
    assert batch["slot_mapping"] == [-1, 7, -1, -1, 10, -1]  # row 3: 4 + 3, row 6: 8 + 2
    assert batch["read_slots"] == [4, 5, 10]


def test_shadow_rows_come_behind_their_request_and_have_no_slot() -> None:
    builder = BatchBuilder(page_size=4)
    table = make_table(PagePool(num_pages=8, page_size=4), 8, cached=8)  # pages 1, 2
    block, shadow = [(4, 7)], [(4, 7)]
    # From pages: rows 4..6 are computed and written, and all but row 1 are read.
    read = [(0, 1), (2, 8)]
    builder.add(
        table, ids(10, 8), block, block, read, rows(6), (4, 7), False, shadow, rows(4, 5), 99
    )
    # Fresh: rows 1..4 are computed, of them 2 and 3 are the block.
    builder.add(
        None, ids(30, 5), [(1, 5)], [], [(1, 5)], rows(3), (2, 4), False, [(2, 4)], rows(2), 98
    )
    builder.add(None, ids(50, 1), [(0, 1)], [], [(0, 1)], rows(0), (0, 1))
    assert builder.num_query_rows == (3 + 3) + (4 + 2) + 1
    assert builder.num_score_rows == (1 + 2) + (1 + 1) + 1
    assert fill(builder) == {
        "input_ids": [14, 15, 16, 99, 99, 99, 31, 32, 33, 34, 98, 98, 50],
        "positions": [4, 5, 6, 4, 5, 6, 1, 2, 3, 4, 2, 3, 0],
        "slot_mapping": [8, 9, 10, *[-1] * 10],
        "cu_query": [0, 6, 12, 13],
        "cu_read": [0, 7, 7, 7],
        "read_slots": [4, 6, 7, 8, 9, 10, 11],
        "page_table": [[1, 2], [0, 0], [0, 0]],
        # First what each request scores, then the shadow rows of all: 4 and 5 of one, 2 of another.
        "logits_rows": [2, 8, 12, 3, 4, 10],
        "score_request": [0, 1, 2, 0, 0, 1],
        "score_positions": [6, 3, 0, 4, 5, 2],
        "shadow_lens": [3, 2, 0],
        # Rows 0, 2 and 3 are read in front of the block, and row 1 is computed in front of it.
        "shadow_columns": [3, 1, 0],
        "visible": [7] * 6 + [4] * 6 + [1],
        "limited": [0, 0, 0],
    }


def test_under_a_block_causal_mask_a_row_sees_up_to_the_end_of_its_block() -> None:
    builder = BatchBuilder(page_size=4, mask_block=4)
    table = make_table(PagePool(num_pages=8, page_size=4), 10, cached=10)
    whole = [(0, 10)]
    builder.add(None, ids(0, 10), whole, [], whole, rows(), (8, 10))
    builder.add(table, ids(0, 10), [(8, 10)], [(8, 10)], whole, rows(), (8, 10))
    batch = fill(builder)
    assert batch["visible"] == [4] * 4 + [8] * 4 + [10] * 2 + [10] * 2
    assert batch["limited"] == [1, 0]
    with pytest.raises(ValueError, match="mask_block must not be negative, got -4"):
        BatchBuilder(4, -4)


def test_with_an_open_block_its_rows_see_all_and_the_others_are_causal() -> None:
    builder = BatchBuilder(page_size=4, mask_block=1, opens_block=True)
    table = make_table(PagePool(num_pages=8, page_size=4), 7, cached=7)
    whole = [(0, 7)]
    builder.add(None, ids(0, 7), whole, [], whole, rows(), (4, 7))
    builder.add(table, ids(0, 7), [(2, 7)], [(2, 7)], whole, rows(), (4, 7))
    builder.add(table, ids(0, 7), [(4, 7)], [(4, 7)], whole, rows(), (4, 7))
    batch = fill(builder)
    assert batch["visible"] == [1, 2, 3, 4, 7, 7, 7, 3, 4, 7, 7, 7, 7, 7, 7]
    assert batch["limited"] == [1, 1, 0]


def test_a_row_computed_for_its_logits_alone_is_read_from_its_page() -> None:
    builder = BatchBuilder(page_size=4, mask_block=4)
    table = make_table(PagePool(num_pages=8, page_size=4), 8, cached=8)  # pages 1, 2
    builder.add(table, ids(0, 8), [(3, 8)], [(4, 8)], [(0, 8)], rows(3, 5), (4, 8))
    batch = fill(builder)
    assert batch["slot_mapping"] == [-1, 8, 9, 10, 11]
    assert batch["read_slots"] == list(range(4, 12))
    assert batch["logits_rows"] == [0, 2]
    assert batch["visible"] == [4, 8, 8, 8, 8]


def test_a_fresh_request_with_a_table_neither_reads_nor_writes_pages() -> None:
    builder = BatchBuilder(page_size=4)
    table = make_table(PagePool(num_pages=4, page_size=4), 8, cached=8)
    builder.add(table, ids(0, 8), [(0, 8)], [], [(0, 8)], rows(4, 5, 6, 7), (4, 8))
    assert (builder.num_read_rows, builder.max_pages) == (0, 0)
    assert fill(builder)["slot_mapping"] == [-1] * 8


def test_the_batch_holds_what_was_true_when_a_request_was_added() -> None:
    pool, tokens = PagePool(num_pages=4, page_size=4), ids(0, 4)
    table = make_table(pool, 4, cached=4)
    builder = BatchBuilder(page_size=4)
    builder.add(table, tokens, [(0, 4)], [(0, 4)], [(0, 4)], rows(), (0, 4))
    tokens[:] = 99
    table.release()
    batch = fill(builder)
    assert batch["input_ids"] == [0, 1, 2, 3]
    assert batch["slot_mapping"] == [4, 5, 6, 7]


def test_a_refused_plan_leaves_the_builder_unchanged() -> None:
    pool, wrong_pool = PagePool(num_pages=16, page_size=4), PagePool(num_pages=16, page_size=8)
    table, wrong = make_table(pool, 8, cached=8), make_table(wrong_pool, 8, cached=8)
    builder, full = BatchBuilder(page_size=4), [(0, 8)]
    builder.add(table, ids(0, 8), full, full, full, ids(0, 8), (0, 8))
    before = fill(builder)
    half = make_table(pool, 8, cached=4)
    with pytest.raises(PlanError, match=r"all fresh .* first row 4"):
        builder.add(half, ids(0, 8), full, [(0, 4)], full, rows(), (0, 8))
    with pytest.raises(ValueError, match="the table's page_size is 8, the builder's is 4"):
        builder.add(wrong, ids(0, 8), full, full, full, ids(0, 8), (0, 8))
    with pytest.raises(PlanError, match="query must lie in"):
        builder.add(table, ids(0, 7), full, full, full, ids(0, 8), (0, 7))
    with pytest.raises(PlanError, match=r"score: rows must ascend .* row 3 follows 3"):
        builder.add(table, ids(0, 8), full, full, full, rows(3, 3), (0, 8))
    with pytest.raises(PlanError, match=r"shadow_score: rows must ascend .* row 3 follows 3"):
        builder.add(table, ids(0, 8), full, full, full, rows(), (0, 8), False, full, rows(3, 3), 9)
    with pytest.raises(PlanError, match="shadow must be empty or all of the active block"):
        builder.add(table, ids(0, 8), full, full, full, rows(), (0, 8), False, [(0, 7)], rows(), 9)
    with pytest.raises(ValueError, match="shadow rows need a mask_token_id, got -1"):
        builder.add(table, ids(0, 8), full, full, full, rows(), (0, 8), False, full)
    assert fill(builder) == before


@pytest.mark.parametrize("name", list(empty_arrays(BatchBuilder(1))))
@pytest.mark.parametrize("change", ["longer", "dtype", "strided", "read-only"])
def test_a_wrong_array_is_refused_before_anything_is_written(name: str, change: str) -> None:
    pool, builder, full = PagePool(num_pages=8, page_size=4), BatchBuilder(page_size=4), [(0, 8)]
    for _ in range(2):
        builder.add(make_table(pool, 8), ids(0, 8), full, full, full, ids(0, 8), (0, 8))
    arrays = empty_arrays(builder)
    right = arrays[name]
    wide = np.full((2 * right.shape[0], *right.shape[1:]), -7, right.dtype)
    arrays[name] = {
        "longer": wide[: right.shape[0] + 1],
        "dtype": right.astype(np.int32 if right.dtype == np.int64 else np.int64),
        "strided": wide[::2],
        "read-only": right.copy(),
    }[change]
    arrays[name].flags.writeable = change != "read-only"
    expected = (ValueError, f"^{name} must have") if change == "longer" else (TypeError, "fill")
    with pytest.raises(expected[0], match=expected[1]):
        builder.fill(**arrays)
    assert all((array == -7).all() for array in arrays.values())


def test_a_page_table_of_the_right_size_and_wrong_shape_is_refused() -> None:
    builder, full = BatchBuilder(page_size=4), [(0, 8)]
    builder.add(make_table(PagePool(8, 4), 8), ids(0, 8), full, full, full, ids(0, 8), (0, 8))
    arrays = empty_arrays(builder)
    arrays["page_table"] = np.empty((2, 1), np.int32)
    with pytest.raises(ValueError, match=r"page_table must have shape \[1, 2\], got \[2, 1\]"):
        builder.fill(**arrays)


def test_a_cleared_builder_starts_again_and_an_empty_batch_is_filled() -> None:
    builder = BatchBuilder(page_size=4)
    builder.add(None, ids(0, 3), [(0, 3)], [], [(0, 3)], ids(0, 3), (0, 3))
    builder.clear()
    assert (builder.num_requests, builder.num_query_rows, builder.num_score_rows) == (0, 0, 0)
    batch = fill(builder)
    assert batch.pop("cu_query") == batch.pop("cu_read") == [0]
    assert not any(batch.values())
    builder.add(None, ids(5, 2), [(1, 2)], [], [(1, 2)], rows(), (0, 2))
    assert fill(builder)["input_ids"] == [6]
