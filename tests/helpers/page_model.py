"""What csrc/core's page pool and page tables mean, in plain dicts, lists and sets.

A prefix is named by its tokens instead of a hash, the free order is a list, and cached and dirty
rows are sets: slow, and right at a glance. The fuzz compares the C++ objects with it.
"""

from dataclasses import dataclass, field

from starr_engine._core import PageState

FREE, PRIVATE, SEALED = PageState.FREE, PageState.PRIVATE, PageState.SEALED

# A prefix by content: (parent prefix, tokens of the last page), or the name of a root.
Chain = str | tuple["Chain", tuple[int, ...]]


class ModelPool:
    """What PagePool means, with dicts and lists."""

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.num_pages, self.page_size = num_pages, page_size
        self.state = dict.fromkeys(range(1, num_pages), FREE)
        self.refs = dict.fromkeys(range(1, num_pages), 0)
        self.chain: dict[int, Chain] = {}
        self.index: dict[Chain, int] = {}
        self.free = list(range(num_pages - 1, 0, -1))  # the next page to hand out is last
        self.lru: dict[int, None] = {}  # insertion order: least recently used first
        self.allocations = self.evictions = self.hits = self.misses = 0

    def free_order(self) -> list[int]:
        return self.free[::-1] + list(self.lru)

    def allocate(self, count: int) -> list[int] | None:
        if count > len(self.free) + len(self.lru):
            return None
        pages = []
        for _ in range(count):
            if self.free:
                page = self.free.pop()
            else:
                page = next(iter(self.lru))
                del self.lru[page], self.index[self.chain[page]]
                self.evictions += 1
            self.state[page], self.refs[page] = PRIVATE, 1
            pages.append(page)
        self.allocations += count
        return pages

    def reference(self, page: int) -> None:
        self.refs[page] += 1
        self.lru.pop(page, None)

    def release(self, pages: list[int]) -> None:
        for page in pages:
            self.refs[page] -= 1
        for page in reversed(pages):
            if self.refs[page] or self.state[page] is FREE:
                continue
            if self.index.get(self.chain.get(page, "")) == page and self.state[page] is SEALED:
                self.lru.setdefault(page)
            else:
                self.state[page] = FREE
                self.free.append(page)

    def seal(self, page: int, parent: Chain, tokens: tuple[int, ...]) -> Chain:
        self.chain[page], self.state[page] = (parent, tokens), SEALED
        self.index.setdefault(self.chain[page], page)
        return self.chain[page]

    def match(self, root: Chain, tokens: list[int]) -> list[int]:
        pages, chain, size = [], root, self.page_size
        whole = len(tokens) // size
        for i in range(whole):
            chain = (chain, tuple(tokens[i * size : (i + 1) * size]))
            if chain not in self.index:
                break
            pages.append(self.index[chain])
        for page in pages:
            self.reference(page)
        self.hits += len(pages)
        self.misses += whole - len(pages)
        return pages


@dataclass(slots=True, kw_only=True)
class ModelTable:
    """What PageTable knows of its rows, and the tokens that its owner has."""

    pages: list[int]
    num_rows: int
    tokens: list[int]
    cached: set[int] = field(default_factory=set)
    dirty: set[int] = field(default_factory=set)
