"""Dual cache: prefix and suffix rows are reused while a block is denoised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from starr_engine.cache.base import CacheView, StepKind, StepPlan
from starr_engine.errors import RequestError


@dataclass(frozen=True, slots=True, kw_only=True)
class DualCache:
    """Compute all rows at the start of a block, then only the block's rows.

    The refresh is the block's first denoising step, so it costs no extra forward. Rows outside
    the block keep the keys and values of that moment although the block changes.

    Differs from the authors' code: keys are kept with their rotation, which is the same because
    positions never change; and a block that the refresh completed takes no further forward.

    Source:
        Fast-dLLM, arXiv 2505.22618, "DualCache".

    Raises:
        RequestError: If ``refresh_every`` is not a positive integer.
    """

    uses_pages: ClassVar[bool] = True

    refresh_every: int | None = None
    """Compute all rows again after this many steps in a block; None only at its start."""

    def __post_init__(self) -> None:
        every = self.refresh_every
        if every is not None and (
            not isinstance(every, int) or isinstance(every, bool) or every < 1
        ):
            raise RequestError(f"refresh_every must be a positive integer, got {every!r}")

    @property
    def label(self) -> str:
        """Exact only if nothing is ever reused."""
        return "exact" if self.refresh_every == 1 else "approximate: temporal reuse"

    def plan(self, view: CacheView) -> StepPlan:
        """All rows at a refresh, else the block; all rows are read from pages."""
        everything = ((0, view.num_rows),)
        due = self.refresh_every is not None and view.steps_since_refresh >= self.refresh_every
        if view.steps_in_block == 0 or due:
            return StepPlan(
                kind=StepKind.REFRESH, query=everything, write=everything, read=everything
            )
        block = ((view.block_start, view.block_stop),)
        return StepPlan(kind=StepKind.BLOCK, query=block, write=block, read=everything)
