"""PagePool: pages, references, eviction order, copy on write."""

import numpy as np
import pytest

from starr_engine._core import PagePool, PageState, root_key

ROOT = root_key(b"test")


def tokens(*ids: int) -> np.ndarray:
    return np.array(ids, np.int32)


def sealed_chain(pool: PagePool, *ids: int) -> list[int]:
    """Allocate and seal one page of one row per id, in one chain."""
    pages = pool.try_allocate(len(ids))
    assert pages is not None
    parent = ROOT
    for page, token in zip(pages, ids, strict=True):
        parent = pool.seal(page, parent, tokens(token))
    return pages


def test_allocation_is_all_or_nothing() -> None:
    pool = PagePool(num_pages=4, page_size=2)
    assert pool.try_allocate(2) == [1, 2]  # page 0 is reserved
    assert pool.try_allocate(2) is None
    assert pool.free_order() == [3]
    assert pool.stats.allocations == 2


def test_the_page_freed_last_is_taken_first() -> None:
    pool = PagePool(num_pages=6, page_size=2)
    assert pool.try_allocate(3) == [1, 2, 3]
    pool.release([1])
    assert pool.free_order() == [1, 4, 5]
    pool.release([2, 3])  # 3 goes back before 2: the request's own order is kept
    assert pool.free_order() == [2, 3, 1, 4, 5]
    assert pool.state(2) is PageState.FREE


def test_sealed_pages_are_evicted_after_the_free_ones_tail_first() -> None:
    pool = PagePool(num_pages=6, page_size=1)
    pool.release(sealed_chain(pool, 10, 11, 12))  # pages 1, 2, 3
    assert pool.free_order() == [4, 5, 3, 2, 1]
    assert pool.num_indexed == 3
    assert pool.try_allocate(3) == [4, 5, 3]
    assert (pool.stats.evictions, pool.num_indexed) == (1, 2)
    assert pool.match(ROOT, tokens(10, 11, 12)) == [1, 2]
    assert (pool.stats.hits, pool.stats.misses) == (2, 1)


def test_a_match_keeps_its_pages_from_eviction_until_it_is_released() -> None:
    pool = PagePool(num_pages=4, page_size=1)
    pool.release(sealed_chain(pool, 10, 11))
    hit = pool.match(ROOT, tokens(10, 11))
    assert hit == [1, 2]
    assert pool.try_allocate(2) is None
    pool.release(hit)
    assert pool.free_order() == [3, 2, 1]


def test_a_match_refreshes_the_order_of_eviction() -> None:
    pool = PagePool(num_pages=4, page_size=1)
    first, second = sealed_chain(pool, 10), sealed_chain(pool, 20)
    pool.release(first)
    pool.release(second)
    assert pool.free_order() == [3, 1, 2]
    pool.release(pool.match(ROOT, tokens(10)))
    assert pool.free_order() == [3, 2, 1]


def test_the_page_sealed_first_with_a_content_stays_canonical() -> None:
    pool = PagePool(num_pages=4, page_size=1)
    first, second = sealed_chain(pool, 10), sealed_chain(pool, 10)
    assert pool.key(1) == pool.key(2)
    assert (pool.is_indexed(1), pool.is_indexed(2)) == (True, False)
    assert pool.match(ROOT, tokens(10)) == first
    pool.release(second)  # nothing could find it any more
    assert pool.state(2) is PageState.FREE


def test_copy_on_write_copies_only_sealed_pages() -> None:
    pool = PagePool(num_pages=4, page_size=1)
    sealed_chain(pool, 10)
    assert pool.make_private(1) == 2
    assert pool.make_private(2) == 2
    # Page 1 lost its only reference but is still found.
    assert pool.free_order() == [3, 1]
    assert pool.match(ROOT, tokens(10)) == [1]
    assert pool.try_allocate(1) == [3]
    assert pool.make_private(1) is None
    assert pool.ref_count(1) == 1


@pytest.mark.parametrize(
    ("pages", "message"),
    [([1, 3, 3], r"page 3 \(entry 2"), ([1, 4], "page 4"), ([1, 0], "page 0"), ([1, 9], "page 9")],
)
def test_a_wrong_release_drops_no_reference(pages: list[int], message: str) -> None:
    pool = PagePool(num_pages=5, page_size=1)
    sealed_chain(pool, 10, 11)
    assert pool.try_allocate(1) == [3]
    with pytest.raises(ValueError, match=message):
        pool.release(pages)
    assert [pool.ref_count(page) for page in range(5)] == [1, 1, 1, 1, 0]
    pool.check_invariants()


def test_only_sealed_pages_are_shared_and_only_private_ones_are_sealed() -> None:
    pool = PagePool(num_pages=4, page_size=1)
    sealed_chain(pool, 10)
    assert pool.try_allocate(1) == [2]
    with pytest.raises(ValueError, match="page 2 is PRIVATE, only SEALED pages can be shared"):
        pool.add_ref([1, 2])
    assert pool.ref_count(1) == 1
    with pytest.raises(ValueError, match="page 1 is SEALED, only a PRIVATE page can be sealed"):
        pool.seal(1, ROOT, tokens(1))
    with pytest.raises(ValueError, match="expected 1, got 2"):
        pool.seal(2, ROOT, tokens(1, 2))
    with pytest.raises(ValueError, match="page 2 is PRIVATE, only a SEALED page has a key"):
        pool.key(2)


def test_a_pool_needs_a_page_beside_the_reserved_one() -> None:
    with pytest.raises(ValueError, match="num_pages must be at least 2"):
        PagePool(num_pages=1, page_size=4)
    with pytest.raises(ValueError, match="page_size must be at least 1 row, got 0"):
        PagePool(num_pages=4, page_size=0)
