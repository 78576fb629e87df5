"""Dual cache: prefix and suffix rows are reused while a block is denoised."""

from __future__ import annotations

from dataclasses import dataclass

from starr_engine.cache.base import CacheView
from starr_engine.cache.refresh import RefreshingCache, active_rows
from starr_engine.cache.rows import RowRanges


@dataclass(frozen=True, slots=True, kw_only=True)
class DualCache(RefreshingCache):
    """Compute all rows at the start of a block, then only the block's rows.

    The refresh is the block's first denoising step, so it costs no extra forward. Rows outside
    the block keep the keys and values of that moment although the block changes.

    Differs from the authors' code: keys are kept with their rotation, which is the same because
    positions never change; and a block that the refresh completed takes no further forward.

    Source:
        Fast-dLLM, arXiv 2505.22618, "DualCache".
    """

    def inner(self, view: CacheView) -> RowRanges:
        """The block."""
        return (active_rows(view),)
