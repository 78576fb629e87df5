"""Vicinity refresh: the active block is computed together with its neighbours."""

from __future__ import annotations

from dataclasses import dataclass

from starr_engine.cache.base import CacheView
from starr_engine.cache.refresh import RefreshingCache, active_rows, positive
from starr_engine.cache.rows import RowRanges


@dataclass(frozen=True, slots=True, kw_only=True)
class VicinityCache(RefreshingCache):
    """Between refreshes compute the block and so many rows on either side of it.

    Rows near the block depend on it most, and below the GPU's ridge point a few more rows cost
    nothing. With both looks at 0 this is ``dual``.

    Differs from the authors' code: that makes one more forward of the window right after each
    refresh.

    Source:
        dInfer, arXiv 2510.08666, "vicinity KV-cache refresh": look-ahead and look-back of 16 in
        its serving defaults. There the first 4 steps keep no cache, so that the step after them
        is full too, which is ``warmup=5`` here.

    Raises:
        RequestError: If a value is out of range.
    """

    look_back: int = 16
    """Rows computed in front of the block."""

    look_ahead: int = 16
    """Rows computed behind the block."""

    warmup: int = 0
    """Steps of the request, from its first, that compute everything."""

    def __post_init__(self) -> None:
        RefreshingCache.__post_init__(self)
        for name in ("look_back", "look_ahead", "warmup"):
            positive(name, getattr(self, name), least=0)

    def is_due(self, view: CacheView) -> bool:
        """During the warm-up too."""
        return view.num_steps < self.warmup or RefreshingCache.is_due(self, view)

    def inner(self, view: CacheView) -> RowRanges:
        """The block and its neighbours."""
        start, stop = active_rows(view)
        near = max(0, start - self.look_back), min(view.num_rows, stop + self.look_ahead)
        return (near,)
