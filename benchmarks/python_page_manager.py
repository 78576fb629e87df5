"""Page pool and page tables in plain Python, with the features of those in csrc/core.

Written for speed as far as plain Python goes: lists indexed by page, an OrderedDict as the queue of
pages to evict, one bytes object per prompt that pages are cut from, BLAKE2b for the chain of keys.
Every call takes and gives what its C++ twin does. What is checked is what the C++ checks too.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from starr_engine.cache.rows import RowRanges, as_ranges

FREE: Final = 0
PRIVATE: Final = 1
SEALED: Final = 2

Key = bytes
"""Name of a prefix: a hash of its parent's name and its last page's tokens."""

Tokens = NDArray[np.int32]


def root_key(identity: bytes) -> Key:
    """Start of a prefix chain."""
    return hashlib.blake2b(identity, digest_size=16).digest()


class PythonPagePool:
    """What ``_core.PagePool`` is; see there.

    Args:
        num_pages: Page 0, which is reserved, included.
        page_size: Rows of a page.
    """

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.page_size = page_size
        self._page_bytes = 4 * page_size
        self._states = [PRIVATE] + [FREE] * (num_pages - 1)
        self._refs = [1] + [0] * (num_pages - 1)
        self._keys = [b""] * num_pages
        self._contents: list[tuple[Key, bytes]] = [(b"", b"")] * num_pages
        self._index: dict[Key, int] = {}
        self._free = list(range(num_pages - 1, 0, -1))  # the next page to hand out is last
        self._lru: OrderedDict[int, None] = OrderedDict()
        self.num_evictions = 0

    @property
    def num_free(self) -> int:
        """Pages that can be handed out now."""
        return len(self._free) + len(self._lru)

    def state(self, page: int) -> int:
        """FREE, PRIVATE or SEALED."""
        return self._states[page]

    def ref_count(self, page: int) -> int:
        """References to a page."""
        return self._refs[page]

    def key(self, page: int) -> Key:
        """Key of a SEALED page."""
        return self._keys[page]

    def free_order(self) -> list[int]:
        """Pages in the order in which allocations would take them."""
        return self._free[::-1] + list(self._lru)

    def try_allocate(self, count: int) -> list[int] | None:
        """So many PRIVATE pages, or None, and nothing happens."""
        if count > self.num_free:
            return None
        at = max(0, len(self._free) - count)
        pages = self._free[at:][::-1]
        del self._free[at:]
        lru, index, keys = self._lru, self._index, self._keys
        for _ in range(count - len(pages)):
            page, _ = lru.popitem(last=False)
            del index[keys[page]]
            self.num_evictions += 1
            pages.append(page)
        states, refs = self._states, self._refs
        for page in pages:
            states[page] = PRIVATE
            refs[page] = 1
        return pages

    def add_ref(self, pages: Sequence[int]) -> None:
        """Add one reference to each SEALED page.

        Raises:
            ValueError: If one is not SEALED.
        """
        states = self._states
        for page in pages:
            if states[page] != SEALED:
                raise ValueError(f"page {page} is not SEALED")
        self._reference(pages)

    def release(self, pages: Sequence[int]) -> None:
        """Drop one reference from each page, last page first.

        Raises:
            ValueError: If a page lacks a reference.
        """
        refs = self._refs
        for at, page in enumerate(pages):
            if page <= 0 or refs[page] == 0:
                for undo in pages[:at]:
                    refs[undo] += 1
                raise ValueError(f"page {page} has no reference to drop")
            refs[page] -= 1
        states, keys, index, lru, free = (
            self._states, self._keys, self._index, self._lru, self._free,
        )  # fmt: skip
        for page in reversed(pages):
            if refs[page] or states[page] == FREE or page in lru:
                continue
            if states[page] == SEALED and index.get(keys[page]) == page:
                lru[page] = None
            else:
                states[page] = FREE
                free.append(page)

    def seal(self, page: int, parent: Key, tokens: Tokens) -> Key:
        """Make a PRIVATE page SEALED and findable; its key.

        Raises:
            ValueError: If the page is not PRIVATE or the tokens do not fill it.
        """
        return self.seal_bytes(page, parent, tokens.tobytes())

    def seal_bytes(self, page: int, parent: Key, content: bytes) -> Key:
        """See ``seal``; the tokens as bytes."""
        if page == 0 or self._states[page] != PRIVATE or len(content) != self._page_bytes:
            raise ValueError(f"page {page} cannot be sealed")
        key = hashlib.blake2b(parent + content, digest_size=16).digest()
        self._keys[page] = key
        self._contents[page] = (parent, content)
        self._states[page] = SEALED
        self._index.setdefault(key, page)
        return key

    def match(self, root: Key, tokens: Tokens) -> list[int]:
        """Longest chain of whole sealed pages that starts ``tokens``; a reference to each."""
        pages = self.find(root, tokens)
        self._reference(pages)
        return pages

    def try_admit(
        self, count: int, root: Key, tokens: Tokens, reserve: int
    ) -> tuple[list[int], int] | None:
        """What is known of ``tokens`` and fresh pages up to ``count``; how many are known.

        None, and nothing happens, when ``reserve`` pages would not be left.
        """
        pages = self.find(root, tokens)
        known, refs = len(pages), self._refs
        idle = sum([refs[page] == 0 for page in pages])
        if count - known + reserve > self.num_free - idle:
            return None
        self._reference(pages)
        fresh = self.try_allocate(count - known)
        assert fresh is not None
        return pages + fresh, known

    def find(self, root: Key, tokens: Tokens) -> list[int]:
        """As ``match``, without references."""
        data, size = tokens.tobytes(), self._page_bytes
        index, contents, blake2b = self._index, self._contents, hashlib.blake2b
        pages: list[int] = []
        parent = root
        for start in range(0, len(data) - size + 1, size):
            content = data[start : start + size]
            key = blake2b(parent + content, digest_size=16).digest()
            page = index.get(key)
            if page is None or contents[page] != (parent, content):
                break
            pages.append(page)
            parent = key
        return pages

    def make_private(self, page: int) -> int | None:
        """A PRIVATE page as it is; for a SEALED one a fresh page, or None.

        Raises:
            ValueError: If the page is not held.
        """
        if page == 0 or self._refs[page] == 0:
            raise ValueError(f"page {page} is not held")
        if self._states[page] == PRIVATE:
            return page
        fresh = self.try_allocate(1)
        if fresh is None:
            return None
        self.release([page])
        return fresh[0]

    def _reference(self, pages: Sequence[int]) -> None:
        refs, lru = self._refs, self._lru
        for page in pages:
            if refs[page] == 0:
                del lru[page]
            refs[page] += 1


class PythonPageTable:
    """What ``_core.PageTable`` is; see there. Made by ``try_create`` and ``try_admit``."""

    def __init__(self, pool: PythonPagePool, pages: list[int], num_rows: int, cached: int) -> None:
        self._pool = pool
        self.pages = pages
        self.num_rows = num_rows
        self.num_adopted = cached // pool.page_size
        self._cached = bytearray(b"\1" * cached + b"\0" * (num_rows - cached))
        self._dirty = bytearray(num_rows)

    @staticmethod
    def try_create(
        pool: PythonPagePool, num_rows: int, adopted: Sequence[int] = ()
    ) -> PythonPageTable | None:
        """A table that starts with adopted pages, or None if the pool is short.

        Raises:
            ValueError: If an adopted page is not SEALED and held, or they hold too many rows.
        """
        cached = len(adopted) * pool.page_size
        if cached > num_rows:
            raise ValueError("the adopted pages hold more rows than the table")
        for page in adopted:
            if pool.state(page) != SEALED or pool.ref_count(page) == 0:
                raise ValueError(f"page {page} cannot be adopted")
        fresh = pool.try_allocate(-(-num_rows // pool.page_size) - len(adopted))
        if fresh is None:
            return None
        return PythonPageTable(pool, [*adopted, *fresh], num_rows, cached)

    @staticmethod
    def try_admit(
        pool: PythonPagePool, num_rows: int, root: Key, tokens: Tokens, reserve: int = 0
    ) -> PythonPageTable | None:
        """A table that starts with the pages found for ``tokens``, or None, and nothing happens.

        Raises:
            ValueError: If there are more tokens than rows.
        """
        if len(tokens) > num_rows:
            raise ValueError("the table has fewer rows than there are tokens")
        taken = pool.try_admit(-(-num_rows // pool.page_size), root, tokens, reserve)
        if taken is None:
            return None
        pages, known = taken
        return PythonPageTable(pool, pages, num_rows, known * pool.page_size)

    @property
    def num_clean(self) -> int:
        """Rows in front of the first one that has no KV or is dirty."""
        uncached = self._cached.find(0)
        dirty = self._dirty.find(1)
        ends = [end for end in (uncached, dirty) if end >= 0]
        return min(ends, default=self.num_rows)

    def cached_ranges(self) -> RowRanges:
        """Rows that have a KV."""
        return as_ranges(np.flatnonzero(np.frombuffer(self._cached, np.uint8)))

    def dirty_ranges(self) -> RowRanges:
        """Rows whose KV is older than their token."""
        return as_ranges(np.flatnonzero(np.frombuffer(self._dirty, np.uint8)))

    def try_grow(self, num_rows: int) -> bool:
        """Append uncached rows up to ``num_rows``; False if the pool is short."""
        fresh = self._pool.try_allocate(-(-num_rows // self._pool.page_size) - len(self.pages))
        if fresh is None:
            return False
        self.pages += fresh
        more = bytes(num_rows - self.num_rows)
        self._cached += more
        self._dirty += more
        self.num_rows = num_rows
        return True

    def mark_written(self, ranges: Sequence[tuple[int, int]]) -> None:
        """The KV of these rows is that of their present tokens.

        Raises:
            ValueError: If a row lies in a SEALED page.
        """
        size = self._pool.page_size
        for start, stop in ranges:
            if stop > self.num_rows or (
                start < stop
                and any(
                    self._pool.state(page) == SEALED
                    for page in self.pages[start // size : -(-stop // size)]
                )
            ):
                raise ValueError("the rows cannot be marked written")
        for start, stop in ranges:
            self._cached[start:stop] = b"\1" * (stop - start)
            self._dirty[start:stop] = bytes(stop - start)

    def mark_dirty(self, rows: Tokens) -> None:
        """The tokens of these rows changed.

        Raises:
            ValueError: If a row lies in a SEALED page.
        """
        wanted = rows.tolist()
        for row in wanted:
            if self._pool.state(self.pages[row // self._pool.page_size]) == SEALED:
                raise ValueError(f"row {row} cannot be marked dirty")
        for row in wanted:
            self._dirty[row] = self._cached[row]

    def seal_prefix(self, num_rows: int, tokens: Tokens, mask_token_id: int, root: Key) -> int:
        """Seal the whole pages of the first rows; how many were sealed now.

        Raises:
            ValueError: If a row is uncached, dirty or masked, or sealed under another prefix.
        """
        pool, size = self._pool, self._pool.page_size
        whole = num_rows // size
        rows = whole * size
        if self.num_clean < rows or bool((tokens[:rows] == mask_token_id).any()):
            raise ValueError("only clean rows with tokens can be sealed")
        data, sealed, parent = tokens[:rows].tobytes(), 0, root
        for at, page in enumerate(self.pages[:whole]):
            content = data[4 * size * at : 4 * size * (at + 1)]
            if pool.state(page) != SEALED:
                parent = pool.seal_bytes(page, parent, content)
                sealed += 1
                continue
            key = hashlib.blake2b(parent + content, digest_size=16).digest()
            if pool.key(page) != key:
                raise ValueError(f"page {page} was sealed under another prefix")
            parent = key
        return sealed

    def release(self) -> None:
        """Give all pages back; repeating it does nothing."""
        self._pool.release(self.pages)
        self.pages, self.num_rows = [], 0
        self._cached.clear()
        self._dirty.clear()
