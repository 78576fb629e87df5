"""PageTable: pages of a request, cached and dirty rows, sealing, copy on write."""

import gc

import numpy as np
import pytest

from starr_engine._core import PagePool, PageTable, root_key

MASK = 99
ROOT = root_key(b"test")


def rows(*ids: int) -> np.ndarray:
    return np.array(ids, np.int32)


@pytest.fixture
def pool() -> PagePool:
    return PagePool(num_pages=8, page_size=4)


def make_table(pool: PagePool, num_rows: int, cached: int = 0) -> PageTable:
    table = PageTable.try_create(pool, num_rows)
    assert table is not None
    table.mark_written([(0, cached)])
    return table


def test_rows_lie_in_whole_pages(pool: PagePool) -> None:
    table = make_table(pool, num_rows=9)
    assert table.pages == [1, 2, 3]  # ceil(9 / 4) pages
    # Row 6 is offset 2 of its second page, page 2: 2 * 4 + 2.
    assert table.slot(6) == 10
    assert (table.num_rows, table.num_cached, table.num_dirty) == (9, 0, 0)
    for row in (-1, 9):
        with pytest.raises(IndexError, match=f"row {row} is outside the table of 9 rows"):
            table.slot(row)


def test_a_table_that_does_not_fit_takes_nothing(pool: PagePool) -> None:
    assert PageTable.try_create(pool, 29) is None  # 8 pages, 7 exist beside page 0
    assert pool.num_free == 7


def sealed_prefix(pool: PagePool, *ids: int) -> PageTable:
    table = make_table(pool, num_rows=len(ids), cached=len(ids))
    table.seal_prefix(len(ids), rows(*ids), MASK, ROOT)
    return table


def test_admission_takes_over_what_is_known_and_adds_fresh_pages(pool: PagePool) -> None:
    first = sealed_prefix(pool, *range(8))
    known = rows(*range(8), 50, 51)  # two whole pages, of which both are known; two tokens more
    table = PageTable.try_admit(pool, 13, ROOT, known)
    assert table is not None
    assert table.pages == [1, 2, 3, 4]
    assert (table.num_adopted, table.cached_rows()) == (2, list(range(8)))
    assert [pool.ref_count(page) for page in table.pages] == [2, 2, 1, 1]
    assert (pool.stats.hits, pool.stats.misses) == (2, 0)
    other = PageTable.try_admit(pool, 4, root_key(b"another"), known[:4])
    assert other is not None
    assert (other.num_adopted, pool.stats.hits, pool.stats.misses) == (0, 2, 1)
    first.release()
    table.release()
    assert (pool.num_free, table.num_adopted) == (6, 0)


def test_admission_leaves_the_reserve_or_does_nothing(pool: PagePool) -> None:
    sealed_prefix(pool, *range(8)).release()  # two idle pages, which count as free: 7 in all
    before = pool.free_order()
    # 5 pages, of which 2 are known: 7 - 5 are left, although only 3 fresh ones are taken.
    assert PageTable.try_admit(pool, 20, ROOT, rows(*range(8)), reserve=3) is None
    assert (pool.free_order(), pool.stats.hits, pool.stats.misses) == (before, 0, 0)
    table = PageTable.try_admit(pool, 20, ROOT, rows(*range(8)), reserve=2)
    assert table is not None
    assert (table.num_adopted, pool.num_free) == (2, 2)
    for wrong in ({"num_rows": 7}, {"num_rows": -1}, {"num_rows": 8, "reserve": -1}):
        with pytest.raises(ValueError, match=r"cannot hold|must not be negative"):
            PageTable.try_admit(pool, root=ROOT, tokens=rows(*range(8)), **wrong)
    pool.check_invariants()


def test_admission_evicts_the_oldest_content_but_not_what_it_takes_over(pool: PagePool) -> None:
    old = sealed_prefix(pool, *range(20, 28))
    new = sealed_prefix(pool, *range(8))
    old.release()
    new.release()  # 3 pages were never used
    table = PageTable.try_admit(pool, 28, ROOT, rows(*range(8)))  # all 7 pages
    assert table is not None
    assert (table.num_adopted, pool.stats.evictions) == (2, 2)
    pool.check_invariants()
    assert pool.match(ROOT, rows(*range(20, 28))) == []


def test_release_may_be_repeated_and_losing_the_table_is_enough(pool: PagePool) -> None:
    table = make_table(pool, num_rows=8)
    table.release()
    table.release()
    assert (pool.num_free, table.pages, table.num_rows) == (7, [], 0)
    other = make_table(pool, num_rows=8)
    assert pool.num_free == 5
    del other
    assert pool.num_free == 7


def test_a_table_keeps_its_pool_alive() -> None:
    table = make_table(PagePool(num_pages=3, page_size=4), num_rows=8)
    gc.collect()
    assert table.try_grow(9) is False
    table.check_invariants()


def test_only_cached_rows_become_dirty_and_a_write_cleans_them(pool: PagePool) -> None:
    table = make_table(pool, num_rows=8, cached=5)
    table.mark_dirty(rows(4, 6, 1))
    assert table.dirty_rows() == [1, 4]  # row 6 has no KV, so nothing of it is stale
    table.mark_written([(0, 1), (4, 8)])
    assert table.dirty_rows() == [1]
    assert table.cached_rows() == [0, 1, 2, 3, 4, 5, 6, 7]


def test_a_row_outside_the_table_marks_nothing(pool: PagePool) -> None:
    table = make_table(pool, num_rows=8, cached=8)
    with pytest.raises(IndexError, match="row 8"):
        table.mark_dirty(rows(0, 8))
    with pytest.raises(ValueError, match="the table has 8 rows"):
        table.mark_written([(0, 2), (7, 9)])
    assert table.num_dirty == 0


def test_a_page_with_a_stale_missing_or_masked_row_is_not_sealed(pool: PagePool) -> None:
    table, tokens = make_table(pool, num_rows=10, cached=7), np.arange(10, dtype=np.int32)
    with pytest.raises(ValueError, match="row 7 has no KV"):
        table.seal_prefix(8, tokens, MASK, ROOT)
    table.mark_written([(7, 10)])
    table.mark_dirty(rows(5))
    with pytest.raises(ValueError, match="row 5 is dirty"):
        table.seal_prefix(8, tokens, MASK, ROOT)
    table.mark_written([(5, 6)])
    with pytest.raises(ValueError, match="row 6 holds the mask token"):
        table.seal_prefix(8, tokens, 6, ROOT)
    assert not table.is_sealed(0)
    # Rows 8 and 9 do not fill their page: two of three pages are sealed, once.
    assert table.seal_prefix(10, tokens, MASK, ROOT) == 2
    assert table.seal_prefix(10, tokens, MASK, ROOT) == 0
    assert [table.is_sealed(row) for row in (7, 8)] == [True, False]


def test_rows_of_sealed_pages_are_immutable(pool: PagePool) -> None:
    table = make_table(pool, num_rows=8, cached=8)
    table.seal_prefix(4, np.arange(8, dtype=np.int32), MASK, ROOT)
    with pytest.raises(ValueError, match="row 3 cannot be marked dirty: page 1 is SEALED"):
        table.mark_dirty(rows(5, 3))
    with pytest.raises(ValueError, match="row 3 cannot be marked written: page 1 is SEALED"):
        table.mark_written([(3, 5)])
    assert table.num_dirty == 0


def test_a_matched_prefix_is_adopted_with_its_references(pool: PagePool) -> None:
    tokens = np.arange(12, dtype=np.int32)
    first = make_table(pool, num_rows=8, cached=8)
    first.seal_prefix(8, tokens, MASK, ROOT)
    first.release()
    second = PageTable.try_create(pool, 12, adopted=pool.match(ROOT, tokens))
    assert second is not None
    # Page 3 was never used and comes next in the free list.
    assert second.pages == [1, 2, 3]
    assert second.cached_rows() == [0, 1, 2, 3, 4, 5, 6, 7]
    second.mark_written([(8, 12)])
    assert second.seal_prefix(12, tokens, MASK, ROOT) == 1
    second.release()
    assert pool.match(ROOT, tokens) == [1, 2, 3]


def test_the_caller_keeps_the_references_of_a_table_that_does_not_fit(pool: PagePool) -> None:
    tokens = np.arange(4, dtype=np.int32)
    table = make_table(pool, num_rows=4, cached=4)
    table.seal_prefix(4, tokens, MASK, ROOT)
    hit = pool.match(ROOT, tokens)
    assert PageTable.try_create(pool, 32, adopted=hit) is None
    assert pool.ref_count(1) == 2
    with pytest.raises(ValueError, match="hold 4 rows, the table has only 3"):
        PageTable.try_create(pool, 3, adopted=hit)
    with pytest.raises(ValueError, match="page 5 cannot be adopted"):
        PageTable.try_create(pool, 8, adopted=[5])


def test_copy_on_write_names_the_pages_to_copy(pool: PagePool) -> None:
    table = make_table(pool, num_rows=12, cached=12)
    table.seal_prefix(8, np.arange(12, dtype=np.int32), MASK, ROOT)
    assert table.copy_on_write((7, 12)) == [(2, 4)]  # page 3 is private already
    assert table.pages == [1, 4, 3]
    assert table.num_cached == 12
    assert pool.try_allocate(4) == [5, 6, 7, 2]
    assert table.copy_on_write((0, 1)) is None
    assert table.pages == [1, 4, 3]


def test_a_page_computed_behind_another_prefix_is_not_chained(pool: PagePool) -> None:
    table, tokens = make_table(pool, num_rows=8, cached=8), np.arange(8, dtype=np.int32)
    table.seal_prefix(8, tokens, MASK, ROOT)
    assert table.copy_on_write((0, 4)) == [(1, 3)]
    tokens[0] = 77
    table.mark_written([(0, 4)])
    with pytest.raises(ValueError, match="rows from 4 were sealed under another prefix"):
        table.seal_prefix(8, tokens, MASK, ROOT)


def test_growing_appends_uncached_rows_or_nothing() -> None:
    pool = PagePool(num_pages=4, page_size=4)
    table = make_table(pool, num_rows=3, cached=3)
    assert table.try_grow(12) is True
    assert (table.pages, table.num_cached) == ([1, 2, 3], 3)
    assert table.try_grow(13) is False
    assert table.num_rows == 12
    with pytest.raises(ValueError, match="does not shrink: it has 12 rows, asked for 11"):
        table.try_grow(11)
