"""The page manager that the benchmark compares with does what the C++ one does."""

from __future__ import annotations

import random
from contextlib import suppress

import numpy as np
import pytest

from benchmarks import python_page_manager as plain
from benchmarks.python_page_manager import PythonPagePool, PythonPageTable
from starr_engine import _core
from starr_engine._core import PagePool, PageState, PageTable

MASK = 9
STATES = {PageState.FREE: plain.FREE, PageState.PRIVATE: plain.PRIVATE}


class Pair:
    """Both managers; each method is one operation on both, whose results are compared."""

    def __init__(self, num_pages: int, page_size: int, seed: int) -> None:
        self.random = random.Random(seed)
        self.fast, self.slow = PagePool(num_pages, page_size), PythonPagePool(num_pages, page_size)
        self.num_pages, self.size = num_pages, page_size
        self.roots = (_core.root_key(b"x"), plain.root_key(b"x"))
        self.tables: list[tuple[PageTable, PythonPageTable, list[int]]] = []

    def compare(self) -> None:
        fast, slow = self.fast, self.slow
        assert fast.free_order() == slow.free_order()
        assert fast.num_free == slow.num_free
        assert fast.stats.evictions == slow.num_evictions
        for page in range(self.num_pages):
            assert fast.ref_count(page) == slow.ref_count(page)
            assert STATES.get(fast.state(page), plain.SEALED) == slow.state(page)
        for one, two, _ in self.tables:
            assert (one.pages, one.num_rows) == (two.pages, two.num_rows)
            assert one.num_clean == two.num_clean
            assert tuple(one.cached_ranges()) == two.cached_ranges()
            assert tuple(one.dirty_ranges()) == two.dirty_ranges()

    def admit(self) -> None:
        # Two values per page repeated, so that contents meet often.
        count = self.random.randrange(6 * self.size)
        tokens = [self.random.randrange(2) for _ in range(6) for _ in range(self.size)][:count]
        array = np.array(tokens, np.int32)
        if self.random.random() < 0.5:
            return self.admit_at_once(count, tokens, array)
        found = self.fast.match(self.roots[0], array)
        assert found == self.slow.match(self.roots[1], array)
        one = PageTable.try_create(self.fast, count, found)
        two = PythonPageTable.try_create(self.slow, count, found)
        assert (one is None) == (two is None)
        if one is None or two is None:
            self.fast.release(found)
            self.slow.release(found)
            return
        self.keep(one, two, tokens)

    def admit_at_once(self, count: int, tokens: list[int], array: np.ndarray) -> None:
        # What stays free is mostly far more than is asked for, or just about that.
        reserve = self.random.choice([0, 1, 2, self.num_pages // 2])
        asked = array[: self.random.randrange(count + 1)]
        one = PageTable.try_admit(self.fast, count, self.roots[0], asked, reserve)
        two = PythonPageTable.try_admit(self.slow, count, self.roots[1], asked, reserve)
        assert (one is None) == (two is None)
        if one is not None and two is not None:
            assert one.num_adopted == two.num_adopted
            assert self.fast.num_free >= reserve
            self.keep(one, two, tokens)

    def keep(self, one: PageTable, two: PythonPageTable, tokens: list[int]) -> None:
        self.tables.append((one, two, tokens))
        if self.random.random() < 0.5:  # as a forward and its block's commit do
            self.both("mark_written", one, two, [(one.num_adopted * self.size, len(tokens))])
            self.seal(one, two, tokens, len(tokens))

    def seal(self, one: PageTable, two: PythonPageTable, tokens: list[int], stop: int) -> None:
        array = np.array(tokens, np.int32)
        fast: object = ValueError
        slow: object = ValueError
        with suppress(ValueError):
            fast = one.seal_prefix(stop, array, MASK, self.roots[0])
        with suppress(ValueError):
            slow = two.seal_prefix(stop, array, MASK, self.roots[1])
        assert fast == slow

    def both(self, name: str, one: object, two: object, *args: object) -> None:
        results: list[object] = []
        for target in (one, two):
            try:
                results.append(getattr(target, name)(*args))
            except ValueError:
                results.append(ValueError)
        assert results[0] == results[1], (name, args)

    def change(self) -> None:
        if not self.tables:
            return self.admit()
        one, two, tokens = self.tables[self.random.randrange(len(self.tables))]
        start = self.random.randrange(len(tokens) + 1)
        stop = self.random.randint(start, len(tokens))
        rows = np.array(sorted(self.random.sample(range(start, stop), min(2, stop - start))))
        match self.random.randrange(4):
            case 0:
                tokens += [self.random.randrange(2)] * self.random.randrange(3)
                self.both("try_grow", one, two, len(tokens))
                del tokens[one.num_rows :]
            case 1:
                self.both("mark_written", one, two, [(start, stop)])
            case 2:
                self.both("mark_dirty", one, two, rows.astype(np.int32))
            case _:
                self.seal(one, two, tokens, stop)

    def drop(self) -> None:
        if not self.tables:
            return self.admit()
        one, two, _ = self.tables.pop(self.random.randrange(len(self.tables)))
        one.release()
        two.release()

    def share_and_copy(self) -> None:
        if not self.tables:
            return self.admit()
        pages = self.tables[self.random.randrange(len(self.tables))][0].pages
        self.both("add_ref", self.fast, self.slow, pages)
        if not pages or any(self.fast.state(page) is PageState.PRIVATE for page in pages):
            return None
        moved = self.fast.make_private(pages[0]), self.slow.make_private(pages[0])
        assert moved[0] == moved[1]
        held = [moved[0] or pages[0], *pages[1:]]
        self.fast.release(held)
        self.slow.release(held)


@pytest.mark.parametrize(("num_pages", "page_size"), [(6, 1), (14, 2), (30, 4)])
def test_ten_thousand_operations_give_what_the_cpp_gives(num_pages: int, page_size: int) -> None:
    pair = Pair(num_pages, page_size, seed=num_pages)
    calls = [pair.admit, pair.change, pair.change, pair.change, pair.drop, pair.share_and_copy]
    for step in range(10_000):
        pair.random.choice(calls)()
        if step % 10 == 0:
            pair.compare()
    assert pair.slow.num_evictions > 100
    assert pair.fast.stats.hits > 100


def test_a_wrong_release_changes_nothing() -> None:
    pool = PythonPagePool(4, 2)
    pages = pool.try_allocate(2)
    assert pages == [1, 2]
    with pytest.raises(ValueError, match="page 3 has no reference"):
        pool.release([1, 2, 3])
    assert [pool.ref_count(page) for page in (1, 2, 3)] == [1, 1, 0]
    assert pool.try_allocate(2) is None
    assert pool.num_free == 1
