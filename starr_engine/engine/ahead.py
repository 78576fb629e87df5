"""Steps that are launched before the one in front of them is known to the host.

Inside a block most cache policies compute the same rows at every step, whatever was unmasked. The
device knows what was: tokens, masks and what policies remember need not go by the host. So the
host queues a request's next step while the last one runs, and learns a step late that a block is
done. What a step then computes for that block is lost: none of its rows is kept, and its decision
is dropped. A request whose block will be done, as its pace has it, sits the step out instead.

What the host must know first waits: a block's first step, and whatever a plan reads off the canvas.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from starr_engine.cache.base import StepKind, StepPlan
from starr_engine.cache.rows import RowRanges, covers
from starr_engine.engine.running import RequestView, RunningRequest
from starr_engine.engine.scheduler import ScheduledRequest
from starr_engine.models.base import ModelSpec

MOST_LEFT_OUT: Final = 1 / 8
"""Of the requests of a step, those that may sit out the one behind it: a step costs nearly the same
without them, so that each loses about one, and what is won is the host's part of one."""


class UnknownYetError(Exception):
    """A plan asked for what the step that runs will change."""


def can_go_ahead(running: RunningRequest) -> bool:
    """Whether a request asks for nothing that the host must see between two steps."""
    cache = running.cache
    return not (
        running.recorder is not None
        or running.probes is not None
        or running.rules.read_canvas
        or running.remasking.needs_shadow
        or cache.keeps_features
        or cache.needs_drift
    )


def model_goes_ahead(spec: ModelSpec) -> bool:
    """Whether what a model is told of its canvas is on the device alone."""
    return spec.noise != "uniform" and not spec.self_conditioning


def plans_ahead(entries: Sequence[ScheduledRequest]) -> dict[int, StepPlan | None]:
    """Who takes part in a step that follows before this one is known, and with which rows.

    Args:
        entries: Of the step that runs.

    Returns:
        By the place in it, for all whose part is wanted: the plan, or None for who sits out. Empty
        if the host had better wait: a request needs it to, or more than ``MOST_LEFT_OUT`` sit out.
    """
    wanted = {index: entry for index, entry in enumerate(entries) if entry.is_wanted}
    if not all(each.running.goes_ahead and each.canvas_key is None for each in wanted.values()):
        return {}
    for entry in wanted.values():
        if entry.running.pages is not None:
            # The forward is queued: whoever reads these rows comes behind it.
            entry.running.pages.mark_written(entry.plan.write)
    plans = {index: plan_ahead(entry) for index, entry in wanted.items()}
    num_left_out = sum(plan is None for plan in plans.values())
    return plans if num_left_out <= MOST_LEFT_OUT * len(plans) else {}


def plan_ahead(entry: ScheduledRequest) -> StepPlan | None:
    """The plan behind a step that runs; None if it depends on that step, or will not be needed."""
    running, canvas = entry.running, entry.running.request.canvas
    if will_be_done(running):
        return None
    try:
        plan = running.cache.plan(ViewAhead(running, entry.plan))
    except Exception:  # not known yet, or what the policy raises when it is, too
        return None
    block = ((canvas.block_start, canvas.block_stop),)
    is_whole = covers(plan.query, block) and not plan.partial
    return plan if is_whole else None


def will_be_done(running: RunningRequest) -> bool:
    """Whether the step that runs completes the active block, at the pace so far.

    A block that is held without a mask in it is taken to go on.
    """
    request, limit = running.request, running.remasking.step_limit
    if limit is not None and request.steps_in_block + 1 >= limit:
        return True
    canvas = request.canvas
    num_left = int((canvas.active_block == canvas.mask_token_id).sum())
    pace = request.num_unmasked / request.num_forwards if request.num_forwards else 1.0
    return 0 < num_left <= max(1.0, pace)


class ViewAhead(RequestView):
    """A request as it will be when the step that runs is done, as far as that is certain."""

    def __init__(self, running: RunningRequest, plan: StepPlan) -> None:
        super().__init__(running)
        self._is_refresh = plan.kind in (StepKind.REFRESH, StepKind.PREFILL)

    @property
    def num_steps(self) -> int:
        """With the step that runs, like the next two."""
        return super().num_steps + 1

    @property
    def steps_in_block(self) -> int:
        """See ``CacheView``, like all others."""
        return super().steps_in_block + 1

    @property
    def steps_since_refresh(self) -> int:
        """1 if the step that runs is a refresh."""
        return 1 if self._is_refresh else super().steps_since_refresh + 1

    @property
    def num_clean(self) -> int:
        """At most up to the active block: nothing in front of it changes."""
        return min(super().num_clean, self.block_start)

    @property
    def first_scored(self) -> int:
        """Known unless it is in front of the block, for a first position that may be unmasked."""
        first = super().first_scored
        if first < self.block_start:
            raise UnknownYetError
        return first

    @property
    def scored(self) -> RowRanges:
        """Not known, like the others."""
        raise UnknownYetError

    @property
    def drift_since_refresh(self) -> float:
        """Not known."""
        raise UnknownYetError

    @property
    def dirty(self) -> RowRanges:
        """Not known."""
        raise UnknownYetError

    @property
    def masked(self) -> RowRanges:
        """Not known."""
        raise UnknownYetError
