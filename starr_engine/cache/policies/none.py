"""No cache: every step computes the whole canvas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from starr_engine.cache.base import CacheView, StepKind, StepPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class NoCache:
    """Compute and read all rows at every step; the reference for every other policy."""

    label: ClassVar[str] = "exact"
    uses_pages: ClassVar[bool] = False

    def plan(self, view: CacheView) -> StepPlan:
        """All rows, none kept."""
        rows = ((0, view.num_rows),)
        return StepPlan(kind=StepKind.BLOCK, query=rows, write=(), read=rows)
