"""No cache: every step computes all live rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from starr_engine.cache.base import CacheView, StepKind, StepPlan, approximate
from starr_engine.cache.refresh import SuffixWindow


@dataclass(frozen=True, slots=True, kw_only=True)
class NoCache(SuffixWindow):
    """Compute and read all live rows at every step; the reference for every other policy."""

    uses_pages: ClassVar[bool] = False

    def label(self, mask_block: int | None) -> str:
        """Exact unless part of the suffix is hidden."""
        return approximate(*self.suffix_reasons(mask_block))

    def plan(self, view: CacheView) -> StepPlan:
        """All live rows, none kept."""
        rows = self.live(view)
        return StepPlan(kind=StepKind.BLOCK, query=rows, write=(), read=rows)
