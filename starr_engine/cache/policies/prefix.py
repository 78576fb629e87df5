"""Prefix cache: rows in front of the active block are reused while it is denoised."""

from __future__ import annotations

from dataclasses import dataclass

from starr_engine.cache.base import CacheView
from starr_engine.cache.refresh import RefreshingCache, active_rows
from starr_engine.cache.rows import RowRanges


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixCache(RefreshingCache):
    """Between refreshes compute the active block and everything behind it.

    Differs from the authors' code as ``dual`` does. The suffix goes through pages too, which
    changes nothing: it is computed at each step.

    Source:
        Fast-dLLM, arXiv 2505.22618, "PrefixCache".
    """

    def inner(self, view: CacheView) -> RowRanges:
        """The block and the suffix."""
        return ((active_rows(view)[0], view.num_rows),)
