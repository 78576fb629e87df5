"""Which pages a request holds: taken, grown, shared and given back. No tensor is touched here."""

from __future__ import annotations

from typing import Final

from starr_engine._core import PagePool, PageTable, PrefixKey, root_key
from starr_engine.engine.canvas_cache import CanvasCache
from starr_engine.engine.running import RunningRequest

_NO_PREFIX: Final = root_key(b"")
"""Of requests that look for none."""


class PageKeeper:
    """Takes pages for running requests, and shares prefixes that cannot change any more.

    Args:
        pool: Where pages come from.
        identity: What keys and values depend on beside tokens and salt: model, dtype, mask.
        share_prefixes: Whether requests may use pages that others have filled.
        canvases: Whose pages are given up before a request has to wait.
    """

    def __init__(
        self, pool: PagePool, *, identity: str, share_prefixes: bool, canvases: CanvasCache
    ) -> None:
        self._pool = pool
        self.canvases = canvases
        self._identity = identity
        self._share_prefixes = share_prefixes
        self._roots: dict[str, PrefixKey] = {}
        self.num_found = 0
        """Whole pages that admitted requests looked for and found."""

        self.num_missed = 0
        """Whole pages that they looked for in vain."""

    @property
    def num_usable(self) -> int:
        """Pages that requests can have, all together."""
        return self._pool.num_pages - 1

    def num_pages_for(self, num_rows: int) -> int:
        """Pages that so many rows take."""
        return -(-num_rows // self._pool.page_size)

    def try_admit(self, running: RunningRequest, reserve: int = 0) -> bool:
        """Give a request its first pages; False, and nothing happens, if there are too few.

        A request that can be interrupted starts with the rows that are live now. Any other gets
        the pages of its whole canvas, so that it never has to wait for one.

        Args:
            running: Holds no pages yet.
            reserve: Pages that must be left.
        """
        if not running.cache.uses_pages:
            return True
        canvas = running.request.canvas
        rows = canvas.num_live if running.cache.resumable else canvas.length
        root, wanted = _NO_PREFIX, canvas.token_ids[:0]
        if self._shares(running):
            root, wanted = self._root(running), canvas.token_ids[: self._num_shareable(running)]
        pages = PageTable.try_admit(self._pool, rows, root, wanted, reserve)
        while pages is None and self.canvases.evict():
            pages = PageTable.try_admit(self._pool, rows, root, wanted, reserve)
        if pages is None:
            return False
        running.pages = pages
        running.num_sealed = shared = pages.num_adopted
        self.num_found += shared
        self.num_missed += len(wanted) // self._pool.page_size - shared
        running.request.num_cached_tokens += shared * self._pool.page_size
        return True

    def could_admit(self, running: RunningRequest, num_given: int) -> bool:
        """Whether a request's first pages may be there once ``num_given`` are given back."""
        canvas = running.request.canvas
        rows = canvas.num_live if running.cache.resumable else canvas.length
        return self.num_pages_for(rows) <= self._pool.num_free + num_given

    def try_grow(self, running: RunningRequest) -> bool:
        """Give a running request the pages of all rows that are live now; False if too few."""
        if running.pages is None or self.has_room(running):
            return True
        rows = running.request.canvas.num_live
        self._make_free(self.num_pages_for(rows) - len(running.pages.pages))
        return running.pages.try_grow(rows)

    def may_grow(self, running: RunningRequest) -> bool:
        """Whether a running request will want more pages than it has."""
        pages = running.pages
        return pages is not None and pages.num_rows < running.request.canvas.region_stop

    def has_room(self, running: RunningRequest) -> bool:
        """Whether a running request has the pages of all rows that are live now."""
        pages = running.pages
        return pages is None or pages.num_rows >= running.request.canvas.num_live

    def share(self, running: RunningRequest) -> None:
        """Let others use the whole pages in front of the active block that are final now.

        To be called after a forward was carried out: it is what wrote them.
        """
        if running.pages is None or not self._shares(running):
            return
        canvas = running.request.canvas
        # A committed block is final once it was computed with its final tokens; until then it
        # has a dirty row, and all of it depends on that row.
        rows = min(running.pages.num_clean, self._num_shareable(running))
        if canvas.mask_block is not None:
            rows -= rows % canvas.mask_block
        if rows // self._pool.page_size > running.num_sealed:
            running.num_sealed += running.pages.seal_prefix(
                rows, canvas.token_ids, canvas.mask_token_id, self._root(running)
            )

    def _make_free(self, num_pages: int) -> bool:
        while self._pool.num_free < num_pages:
            if not self.canvases.evict():
                return False
        return True

    def _shares(self, running: RunningRequest) -> bool:
        cache = running.cache
        # Pages that others have filled hold keys and values, and no features.
        depends_on_no_suffix = cache.shares_prefix or cache.isolates_prompt
        return self._share_prefixes and depends_on_no_suffix and not cache.keeps_features

    def _num_shareable(self, running: RunningRequest) -> int:
        """Rows that depend on nothing behind them: the whole blocks, or the isolated prompt."""
        canvas = running.request.canvas
        if running.cache.isolates_prompt:
            return canvas.prompt_len
        return canvas.block_start - canvas.block_start % (canvas.mask_block or 1)

    def _root(self, running: RunningRequest) -> PrefixKey:
        salt = running.request.params.cache_salt
        if running.cache.isolates_prompt:
            # Its rows see each other in both directions, so that all tokens belong to the root.
            canvas = running.request.canvas
            prompt = canvas.token_ids[: canvas.prompt_len].tobytes()
            return root_key(f"{len(salt)}:{salt}isolated {self._identity}".encode() + prompt)
        if salt not in self._roots:
            # The length in front keeps salt and identity apart.
            self._roots[salt] = root_key(f"{len(salt)}:{salt}{self._identity}".encode())
        return self._roots[salt]
