"""The page pool, its prefix index and page tables against a plain Python model.

Every call goes to both; results, errors and the whole visible state are compared. One set of
operations serves a hypothesis state machine, which shrinks, and a long seeded walk.
"""

import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from starr_engine._core import PagePool, PageTable, PrefixKey, root_key
from tests.helpers.page_model import PRIVATE, SEALED, Chain, ModelPool, ModelTable

MASK = 9
ROOTS = ("tenant-a", "tenant-b")


class Twin:
    """A pool and its model; each method is one operation on both, drawn by `draw(n)` < n."""

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.pool, self.model = PagePool(num_pages, page_size), ModelPool(num_pages, page_size)
        self.size = page_size
        self.draw: Callable[[int], int] = lambda n: 0
        self.held: list[int] = []  # one entry per reference that no table owns
        self.tables: list[tuple[PageTable, ModelTable]] = []
        self.roots = {name: root_key(name.encode()) for name in ROOTS}
        self.keys: dict[Chain, PrefixKey] = dict(self.roots.items())
        self.num_refused = 0

    def compare(self) -> None:
        pool, model = self.pool, self.model
        pool.check_invariants()
        assert pool.free_order() == model.free_order()
        for page, state in model.state.items():
            assert pool.state(page) is state
            assert pool.ref_count(page) == model.refs[page]
        stats, counted = pool.stats, (model.allocations, model.evictions, model.hits, model.misses)
        assert (stats.allocations, stats.evictions, stats.hits, stats.misses) == counted
        for table, twin in self.tables:
            table.check_invariants()
            assert table.pages == twin.pages
            assert table.cached_rows() == sorted(twin.cached)
            assert table.dirty_rows() == sorted(twin.dirty)
        owned = self.held + [page for _, twin in self.tables for page in twin.pages]
        assert sum(model.refs.values()) == len(owned)

    def refused(self, call: Callable[[], object]) -> None:
        self.num_refused += 1
        with pytest.raises((ValueError, IndexError)):
            call()
        if self.model.num_pages < 10:  # else the walk's own comparisons are close enough
            self.compare()

    def tokens(self, count: int) -> list[int]:
        # Two values per page repeated: contents meet often, so prefixes are hit and duplicated.
        return [token for _ in range(count) for token in [self.draw(2)] * self.size]

    def allocate(self) -> None:
        count = self.draw(4)
        got = self.pool.try_allocate(count)
        assert got == self.model.allocate(count)
        self.held += got or []

    def release(self) -> None:
        if not self.held:
            return self.allocate()
        count = min(len(self.held), 1 + self.draw(3))
        pages = [self.held.pop(self.draw(len(self.held))) for _ in range(count)]
        self.pool.release(pages)
        self.model.release(pages)

    def release_wrongly(self) -> None:
        unheld = [page for page, refs in self.model.refs.items() if refs == 0]
        wrong = [0, self.model.num_pages, -1, *unheld][self.draw(3 + len(unheld))]
        self.refused(lambda: self.pool.release([*self.held, wrong]))

    def seal(self) -> None:
        if not self.held:
            return self.allocate()
        page = self.held[self.draw(len(self.held))]
        sealed = [held for held in self.held if self.model.state[held] is SEALED]
        at = self.draw(len(ROOTS) + len(sealed))
        parent = ROOTS[at] if at < len(ROOTS) else self.model.chain[sealed[at - len(ROOTS)]]
        tokens = self.tokens(1)
        array = np.array(tokens, np.int32)
        if self.model.state[page] is SEALED:
            return self.refused(lambda: self.pool.seal(page, self.keys[parent], array))
        key = self.pool.seal(page, self.keys[parent], array)
        assert key == self.keys.setdefault(self.model.seal(page, parent, tuple(tokens)), key)

    def share(self) -> None:
        if not self.held:
            return self.allocate()
        page = self.held[self.draw(len(self.held))]
        if self.model.state[page] is PRIVATE:
            return self.refused(lambda: self.pool.add_ref([page]))
        self.pool.add_ref([page])
        self.model.reference(page)
        self.held.append(page)

    def match(self) -> list[int]:
        root, tokens = ROOTS[self.draw(len(ROOTS))], self.tokens(self.draw(5))
        pages = self.pool.match(self.roots[root], np.array(tokens, np.int32))
        assert pages == self.model.match(root, tokens)
        self.held += pages
        return pages

    def make_private(self) -> None:
        if not self.held:
            return self.allocate()
        at = self.draw(len(self.held))
        page = self.held[at]
        got = self.pool.make_private(page)
        fresh = [page] if self.model.state[page] is PRIVATE else self.model.allocate(1)
        assert got == (fresh[0] if fresh else None)
        if fresh and fresh[0] != page:
            self.model.release([page])
            self.held[at] = fresh[0]

    def create_table(self) -> None:
        root, tokens = ROOTS[self.draw(2)], self.tokens(4)
        num_rows = self.draw(len(tokens) + 1)
        prefix = np.array(tokens[:num_rows], np.int32)
        adopted = self.pool.match(self.roots[root], prefix)
        assert adopted == self.model.match(root, tokens[:num_rows])
        table = PageTable.try_create(self.pool, num_rows, adopted)
        fresh = self.model.allocate(-(-num_rows // self.size) - len(adopted))
        assert (table is None) == (fresh is None)
        if table is None or fresh is None:
            self.held += adopted
            return
        cached = set(range(len(adopted) * self.size))
        pages = adopted + fresh
        twin = ModelTable(pages=pages, num_rows=num_rows, tokens=tokens, cached=cached)
        self.tables.append((table, twin))

    def sealed_row(self, twin: ModelTable, row: int) -> bool:
        return self.model.state[twin.pages[row // self.size]] is SEALED

    def grow_table(self, table: PageTable, twin: ModelTable) -> None:
        num_rows = self.draw(len(twin.tokens) + 1)
        if num_rows < twin.num_rows:
            return self.refused(lambda: table.try_grow(num_rows))
        fresh = self.model.allocate(-(-num_rows // self.size) - len(twin.pages))
        assert table.try_grow(num_rows) == (fresh is not None)
        if fresh is not None:
            twin.pages += fresh
            twin.num_rows = num_rows

    def write_rows(self, table: PageTable, twin: ModelTable) -> None:
        start = self.draw(twin.num_rows + 1)
        stop = start + self.draw(twin.num_rows - start + 2)  # may pass the end by one
        rows = range(start, stop)
        if stop > twin.num_rows or any(self.sealed_row(twin, row) for row in rows):
            return self.refused(lambda: table.mark_written([(start, stop)]))
        table.mark_written([(start, stop)])
        twin.cached |= set(rows)
        twin.dirty -= set(rows)

    def edit_rows(self, table: PageTable, twin: ModelTable) -> None:
        rows = [self.draw(twin.num_rows + 1) for _ in range(1 + self.draw(2))]
        array = np.array(rows, np.int32)
        if max(rows) >= twin.num_rows or any(self.sealed_row(twin, row) for row in rows):
            return self.refused(lambda: table.mark_dirty(array))
        table.mark_dirty(array)
        for row in rows:
            twin.tokens[row] = MASK if self.draw(4) == 0 else self.draw(2)
        twin.dirty |= twin.cached & set(rows)

    def seal_table(self, table: PageTable, twin: ModelTable) -> None:
        root, num_rows = ROOTS[self.draw(2)], self.draw(twin.num_rows + 1)
        array, size = np.array(twin.tokens, np.int32), self.size
        whole = range(num_rows // size)
        chunks = [tuple(twin.tokens[i * size : (i + 1) * size]) for i in whole]
        chains: list[Chain] = [root]
        for chunk in chunks:
            chains.append((chains[-1], chunk))
        clean = all(
            row in twin.cached and row not in twin.dirty and twin.tokens[row] != MASK
            for row in range(len(whole) * size)
        )
        states = [self.model.state[page] for page in twin.pages]
        same = all(
            self.model.chain[twin.pages[i]] == chains[i + 1] for i in whole if states[i] is SEALED
        )
        if not (clean and same):
            return self.refused(lambda: table.seal_prefix(num_rows, array, MASK, self.roots[root]))
        for i in whole:
            if states[i] is PRIVATE:
                self.model.seal(twin.pages[i], chains[i], chunks[i])
        count = table.seal_prefix(num_rows, array, MASK, self.roots[root])
        assert count == sum(states[i] is PRIVATE for i in whole)
        for i in whole:
            key = self.pool.key(twin.pages[i])
            assert key == self.keys.setdefault(chains[i + 1], key)

    def copy_table(self, table: PageTable, twin: ModelTable) -> None:
        start = self.draw(twin.num_rows + 1)
        stop = start + self.draw(twin.num_rows - start + 1)
        touched = range(start // self.size, -(-stop // self.size)) if stop > start else range(0)
        at = [i for i in touched if self.model.state[twin.pages[i]] is SEALED]
        fresh = self.model.allocate(len(at))
        copies = table.copy_on_write((start, stop))
        if fresh is None:
            assert copies is None
            return
        sources = [twin.pages[i] for i in at]
        assert copies == list(zip(sources, fresh, strict=True))
        for i, page in zip(at, fresh, strict=True):
            twin.pages[i] = page
        self.model.release(sources)

    def drop_table(self, table: PageTable, twin: ModelTable) -> None:
        self.tables.remove((table, twin))
        self.model.release(twin.pages)
        if self.draw(2):
            table.release()
            assert table.pages == []
            assert table.num_rows == 0
            table.release()
        # Otherwise the last Python reference goes when the caller returns.

    def on_a_table(self, operation: Callable[[PageTable, ModelTable], None]) -> None:
        if not self.tables:
            return self.create_table()
        operation(*self.tables[self.draw(len(self.tables))])


# Named twice where pages come back: otherwise a random walk soon holds every page for good.
POOL_OPERATIONS = [
    "allocate",
    "release",
    "release",
    "release_wrongly",
    "seal",
    "share",
    "match",
    "make_private",
    "create_table",
]
TABLE_OPERATIONS = [
    "grow_table",
    "write_rows",
    "edit_rows",
    "seal_table",
    "copy_table",
    "drop_table",
]


class PoolMachine(RuleBasedStateMachine):
    """Hypothesis chooses the operations and their arguments, and shrinks what fails."""

    @initialize(num_pages=st.integers(2, 9), page_size=st.integers(1, 3))
    def make(self, num_pages: int, page_size: int) -> None:
        self.twin = Twin(num_pages, page_size)

    @rule(name=st.sampled_from(POOL_OPERATIONS), data=st.data())
    def use_pool(self, name: str, data: st.DataObject) -> None:
        self.twin.draw = lambda n: data.draw(st.integers(0, n - 1))
        getattr(self.twin, name)()

    @rule(name=st.sampled_from(TABLE_OPERATIONS), data=st.data())
    def use_table(self, name: str, data: st.DataObject) -> None:
        self.twin.draw = lambda n: data.draw(st.integers(0, n - 1))
        self.twin.on_a_table(getattr(self.twin, name))

    @invariant()
    def equal(self) -> None:
        if hasattr(self, "twin"):
            self.twin.compare()


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)


@pytest.mark.parametrize(("num_pages", "page_size"), [(4, 1), (9, 2), (24, 3), (64, 2)])
def test_a_quarter_of_a_million_operations_equal_the_model(num_pages: int, page_size: int) -> None:
    source = random.Random(f"{num_pages}/{page_size}")
    uniform = source.random
    twin = Twin(num_pages, page_size)
    twin.draw = lambda n: int(uniform() * n)
    pool_calls = [getattr(twin, name) for name in POOL_OPERATIONS]
    table_calls = [getattr(twin, name) for name in TABLE_OPERATIONS]
    num_pool, num_all = len(pool_calls), len(pool_calls) + len(table_calls)
    # The whole state of a large pool is compared less often, so that sizes cost alike.
    every = max(1, num_pages // 6)
    for step in range(250_000):
        choice = int(uniform() * num_all)
        if choice < num_pool:
            pool_calls[choice]()
        else:
            twin.on_a_table(table_calls[choice - num_pool])
        if step % every == 0:
            twin.compare()
    # The walk did meet what it is for; a seeded walk repeats, so these are exact.
    assert twin.pool.stats.evictions > 1_000
    assert twin.pool.stats.hits > 5_000
    assert twin.num_refused > 10_000
