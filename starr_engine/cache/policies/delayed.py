"""Delayed cache: a token is reused from one step after it was decoded."""

from __future__ import annotations

from dataclasses import dataclass

from starr_engine.cache.base import CacheView
from starr_engine.cache.refresh import RefreshingCache, positive
from starr_engine.cache.rows import RowRanges, union


@dataclass(frozen=True, slots=True, kw_only=True)
class DelayedCache(RefreshingCache):
    """Between refreshes compute what is still masked and what was unmasked in the last step.

    Keys and values change sharply when a token is decoded and little afterwards, so they are
    taken over one step later. Masks of all blocks count, those to come included. Remasking policies
    that look at tokens again have the active block's computed at every step.

    Differs from the authors' code: rows are not reordered, which changes nothing without a causal
    mask; requests of a batch need not agree in how much they have decoded; and refreshes are
    counted from the last one, so that they come at steps 0, 1, 9, 17 of a block, not 0, 1, 8, 16.

    Source:
        dKV-Cache, arXiv 2505.15781, variant "decode": everything is computed in the first two
        steps of a block and every 8 steps (LLaDA; 4 or 16 for Dream).

    Raises:
        RequestError: If a value is out of range.
    """

    refresh_every: int | None = 8

    warmup: int = 2
    """Steps of each block, from its first, that compute everything."""

    def __post_init__(self) -> None:
        RefreshingCache.__post_init__(self)
        positive("warmup", self.warmup, least=0)

    @property
    def inner_is_whole_block(self) -> bool:
        """Settled tokens of the block are reused."""
        return False

    def is_due(self, view: CacheView) -> bool:
        """During a block's warm-up too, where blocks begin with a refresh."""
        warming = self.refresh == "block" and view.steps_in_block < self.warmup
        return warming or RefreshingCache.is_due(self, view)

    def inner(self, view: CacheView) -> RowRanges:
        """Masks, rows with a newer token than key and value, and tokens to look at again."""
        return union(view.masked, view.dirty, view.scored)
