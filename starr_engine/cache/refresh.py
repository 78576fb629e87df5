"""What the policies that reuse rows have in common: when to refresh, and which suffix to show."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final

from starr_engine.cache.base import CacheDefaults, CacheView, StepKind, StepPlan, approximate
from starr_engine.cache.rows import RowRanges, difference, intersection, union, without_first
from starr_engine.errors import RequestError

REFRESHES: Final = ("block", "never", "drift")


def live_rows(view: CacheView, suffix_window: int | None, suffix_tail: bool) -> RowRanges:
    """Rows that exist for the model: all, or of the masks behind the active block the nearest.

    Masks far behind the block act chiefly as a hint of the output's length. Rows that stay keep
    their true positions. Tokens behind the block were given by the user, and always stay.

    Args:
        view: Of the request.
        suffix_window: Masks shown behind the block; None shows all.
        suffix_tail: Whether the canvas's last row is shown as well.

    Source:
        Streaming-dLLM, arXiv 2601.17917: the nearest masks and the final position.
    """
    if suffix_window is None:
        return ((0, view.num_rows),)
    behind = intersection(((active_rows(view)[1], view.num_rows),), view.masked)
    tail = ((view.num_rows - 1, view.num_rows),) if suffix_tail else ()
    hidden = difference(without_first(behind, suffix_window), tail)
    return difference(((0, view.num_rows),), hidden)


def active_rows(view: CacheView) -> tuple[int, int]:
    """What a step inside the block must compute: first row, and the one behind the last.

    The active block, and all of its mask block where there is one. Where the logits of a position
    are those of the row in front of it, that row too, as long as the first position is scored.
    """
    start, stop = view.block_start, view.block_stop
    if view.mask_block is not None:
        start, stop = start - start % view.mask_block, view.num_rows
    return min(start, view.first_scored), stop


def positive(name: str, value: object, least: int = 1) -> None:
    """Refuse what is no integer of at least ``least``.

    Raises:
        RequestError: Names the argument.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise RequestError(f"{name} must be an integer >= {least}, got {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SuffixWindow(CacheDefaults):
    """How much of the suffix the model is shown.

    Raises:
        RequestError: If a value is out of range.
    """

    suffix_window: int | None = None
    """Masks behind the active block that exist for the model; None shows all."""

    suffix_tail: bool = True
    """Whether the canvas's last row is shown beside the window."""

    def __post_init__(self) -> None:
        if self.suffix_window is not None:
            positive("suffix_window", self.suffix_window, least=0)
        if not isinstance(self.suffix_tail, bool):
            raise RequestError(f"suffix_tail must be True or False, got {self.suffix_tail!r}")

    def live(self, view: CacheView) -> RowRanges:
        """Rows that exist for the model at this step."""
        return live_rows(view, self.suffix_window, self.suffix_tail)

    def suffix_reasons(self, mask_block: int | None) -> tuple[str, ...]:
        """Why the label is not exact, as far as the suffix goes: block-causal models have none."""
        hidden = self.suffix_window is not None and mask_block is None
        return ("suffix window",) if hidden else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshingCache(SuffixWindow, ABC):
    """Base of the policies that reuse rows between refreshes.

    A refresh computes all live rows. Between refreshes a policy computes its ``inner`` rows, and
    with them every live row that was never computed or holds an older token: so whatever the
    refresh, no stale row is read as context of a later block.

    Raises:
        RequestError: If a value is out of range.
    """

    refresh: str = "block"
    """``block``: at each block's first step. ``never``: only at the request's first step.
    ``drift``: there, and whenever the drift of the rows computed since exceeds
    ``drift_budget``."""

    refresh_every: int | None = None
    """Refresh as well when this many steps have passed since the last; None does not."""

    drift_budget: float | None = None
    """With ``refresh="drift"``: how far, as 1 - cosine of the last layer's values averaged over
    the rows computed and added up over steps, rows may move until the next refresh."""

    isolate_prompt: bool = False
    """Let prompt rows see the prompt alone. They then never change: no refresh computes them again,
    and requests with the same prompt share them. This is not what the model was trained with, so
    that its steps are probed unless ``cache_probe_rate`` says otherwise."""

    def __post_init__(self) -> None:
        # Named, because slots make another class of it.
        SuffixWindow.__post_init__(self)
        if self.refresh not in REFRESHES:
            raise RequestError(
                f"refresh must be one of {', '.join(REFRESHES)}, got {self.refresh!r}; for every "
                "n steps set refresh_every"
            )
        if self.refresh_every is not None:
            positive("refresh_every", self.refresh_every)
        if (self.refresh == "drift") != (self.drift_budget is not None):
            raise RequestError("refresh='drift' and drift_budget go together; give both or none")
        if not isinstance(self.isolate_prompt, bool):
            raise RequestError(f"isolate_prompt must be True or False, got {self.isolate_prompt!r}")
        budget = self.drift_budget
        if budget is not None and not (
            isinstance(budget, int | float) and math.isfinite(budget) and budget > 0
        ):
            raise RequestError(f"drift_budget must be a finite number > 0, got {budget!r}")

    @property
    def resumable(self) -> bool:
        """Only where a block's first step is a refresh."""
        return self.refresh == "block"

    @property
    def isolates_prompt(self) -> bool:
        """With ``isolate_prompt``."""
        return self.isolate_prompt

    def refusal(self, mask_block: int | None) -> str:
        """An isolated prompt is for bidirectional models."""
        if self.isolate_prompt and mask_block is not None:
            return (
                "isolate_prompt is for bidirectional models; this one is block-causal, where "
                "cache='block_causal' shares prompts exactly"
            )
        return ""

    @property
    def needs_drift(self) -> bool:
        """With ``refresh="drift"``."""
        return self.refresh == "drift"

    def label(self, mask_block: int | None) -> str:
        """Exact only if nothing is reused that could have changed."""
        reuses = self.refresh_every != 1
        if mask_block is not None and self.refresh == "block" and self.inner_is_whole_block:
            reuses = False  # what is read from in front of the block cannot depend on the block
        reasons: tuple[str, ...] = ("temporal reuse",) if reuses else ()
        if self.isolate_prompt:
            reasons += ("isolated prompt",)
        return approximate(*reasons, *self.suffix_reasons(mask_block))

    @property
    def inner_is_whole_block(self) -> bool:
        """Whether every step computes at least the active block."""
        return True

    @abstractmethod
    def inner(self, view: CacheView) -> RowRanges:
        """Rows that a step between refreshes computes, whether live or not."""

    def is_due(self, view: CacheView) -> bool:
        """Whether the next step is a refresh."""
        if view.steps_since_refresh == 0 or (self.refresh == "block" and view.steps_in_block == 0):
            return True
        if self.refresh_every is not None and view.steps_since_refresh >= self.refresh_every:
            return True
        return self.drift_budget is not None and view.drift_since_refresh > self.drift_budget

    def plan(self, view: CacheView) -> StepPlan:
        """All live rows at a refresh, else the inner ones; all live rows are read from pages."""
        live = self.live(view)
        if self.is_due(view):
            kind, query = StepKind.REFRESH, live
        else:
            kind, query = StepKind.BLOCK, intersection(self.inner(view), live)
            if self.refresh != "block":
                stale = union(view.dirty, difference(live, view.cached))
                query = union(query, intersection(stale, live))
        if not self.isolate_prompt:
            return StepPlan(kind=kind, query=query, write=query, read=live)
        isolated = view.prompt_len
        settled = intersection(((0, isolated),), view.cached)
        # A settled row whose logits are those of the first position is computed for these alone.
        query = union(difference(query, settled), intersection(settled, view.scored))
        return StepPlan(
            kind=kind,
            query=query,
            write=difference(query, settled),
            read=live,
            isolated=isolated,
        )
