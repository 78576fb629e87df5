"""The first step of a canvas, remembered for requests that begin with the same one."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Final

from starr_engine._core import PagePool, PageTable
from starr_engine.cache.base import StepPlan
from starr_engine.cache.rows import RowRanges, num_rows
from starr_engine.engine.running import RunningRequest

_MAX_SEEN: Final = 4096
"""Canvases that were met once; their keys alone are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CanvasKey:
    """All that a first step's keys and values depend on, compared in full."""

    salt: str
    rows: RowRanges
    """Rows that exist for the model."""

    block: tuple[int, int]
    """The active block, with the row in front if its logits are the first position's."""

    token_ids: bytes
    """Of the whole canvas, masks included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageCopy:
    """Whole pages to copy, each to its partner."""

    source: tuple[int, ...]
    target: tuple[int, ...]


class CanvasCache:
    """Keeps copies of the pages that first steps have written.

    In a bidirectional model every row depends on the whole canvas, so pages can be shared only
    between requests whose canvases are equal in every token and mask: samples of one prompt,
    retries, repeated evaluations. Such a request gets a copy, and its first step computes the
    active block alone, among keys and values that are what it would have computed. Of equal
    canvases that arrive together one goes ahead and the others wait for it a step.

    A canvas is kept once it was asked for twice. Pages of this cache are given up, oldest first,
    before any request has to wait for one.

    Args:
        pool: Where the copies' pages come from.
        max_entries: Canvases kept; 0 turns the cache off.
    """

    def __init__(self, pool: PagePool, *, max_entries: int) -> None:
        self._pool = pool
        self._max_entries = max_entries
        self._entries: OrderedDict[CanvasKey, PageTable] = OrderedDict()
        self._seen: OrderedDict[CanvasKey, bool] = OrderedDict()
        self._copies: list[PageCopy] = []
        self._stored: list[CanvasKey] = []
        """Entries whose copy is among ``_copies``."""

        self._unconfirmed: list[CanvasKey] = []
        """Entries whose copy was handed out, to a forward that is not through yet."""

        self.num_hits = 0
        self.num_misses = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: CanvasKey) -> bool:
        return key in self._entries

    def key(self, running: RunningRequest, plan: StepPlan) -> CanvasKey | None:
        """What the step depends on; None if it is no first step of a whole canvas into pages.

        Nor has a step one that keeps features, which are not copied.
        """
        request, canvas = running.request, running.request.canvas
        is_whole = plan.query == plan.write == plan.read and not plan.isolated
        if not (self._max_entries and is_whole and request.num_forwards == 0):
            return None
        if running.pages is None or canvas.mask_block is not None or running.cache.keeps_features:
            return None
        return CanvasKey(
            salt=request.params.cache_salt,
            rows=plan.query,
            block=(canvas.block_start - canvas.logits_shift, canvas.block_stop),
            token_ids=canvas.token_ids.tobytes(),
        )

    def shortened(self, key: CanvasKey, plan: StepPlan) -> StepPlan | None:
        """The plan that is left if the canvas is known: its block alone; None if it is not."""
        if key not in self._entries:
            return None
        return replace(plan, query=(key.block,), write=(key.block,))

    def restore(self, running: RunningRequest, key: CanvasKey) -> None:
        """Give a request a copy of a known canvas's pages, in front of its first step."""
        assert running.pages is not None
        entry = self._entries[key]
        self._entries.move_to_end(key)
        self._copies.append(PageCopy(source=tuple(entry.pages), target=tuple(running.pages.pages)))
        running.pages.mark_written(key.rows)
        running.request.num_cached_tokens += num_rows(key.rows) - (key.block[1] - key.block[0])
        self.num_hits += 1

    def want(self, key: CanvasKey) -> None:
        """Keep this canvas when its first step is done: another request waits for it."""
        self._remember(key, wanted=True)

    def meet(self, key: CanvasKey) -> None:
        """Note that a request computes this canvas; the second one is reason to keep it."""
        self.num_misses += 1
        self._remember(key, wanted=key in self._seen)

    def store(self, running: RunningRequest, key: CanvasKey) -> None:
        """Keep what the first step of a request has written, if that was wanted.

        To be called before the request's next step; the copy is made in front of that.
        """
        if not self._seen.get(key) or key in self._entries or running.pages is None:
            return
        table = PageTable.try_create(self._pool, running.pages.num_rows)
        if table is None:
            return
        table.mark_written(key.rows)
        self._entries[key] = table
        self._copies.append(PageCopy(source=tuple(running.pages.pages), target=tuple(table.pages)))
        self._stored.append(key)
        if len(self._entries) > self._max_entries:
            self.evict()

    def take_copies(self) -> tuple[PageCopy, ...]:
        """The copies to make, in order, before the next forward writes anything."""
        copies, self._copies = tuple(self._copies), []
        self._unconfirmed, self._stored = self._stored, []
        return copies

    def confirm(self) -> None:
        """The forward that made the copies is through."""
        self._unconfirmed.clear()

    def drop_unconfirmed(self) -> None:
        """Forget entries whose forward failed: nobody knows whether their copies were made."""
        for key in self._unconfirmed:
            if key in self._entries:
                self._entries.pop(key).release()
        self._unconfirmed.clear()

    def evict(self) -> bool:
        """Give the pages of the oldest canvas back; False if there is none.

        A copy from or to these pages that is not made yet stays right: all copies are made before
        the pages' next owner writes to them.
        """
        if not self._entries:
            return False
        _, table = self._entries.popitem(last=False)
        table.release()
        return True

    def clear(self) -> None:
        """Give all pages back and forget what was met."""
        while self.evict():
            pass
        self._seen.clear()

    def _remember(self, key: CanvasKey, *, wanted: bool) -> None:
        self._seen[key] = wanted or self._seen.get(key, False)
        self._seen.move_to_end(key)
        if len(self._seen) > _MAX_SEEN:
            self._seen.popitem(last=False)
