"""Decisions to changes: canvases, pages, committed blocks, finished requests."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from starr_engine.cache.base import StepKind
from starr_engine.decoding.rows import RowDecision, RowFailure
from starr_engine.engine.paging import PageKeeper
from starr_engine.engine.running import RunningRequest
from starr_engine.engine.scheduler import ScheduledRequest, Scheduler
from starr_engine.engine.stats import StatsKeeper
from starr_engine.engine.step_batch import StepBatch
from starr_engine.engine.stopping import StopRule, Visible


@dataclass(frozen=True, slots=True, kw_only=True)
class CommittedBlock:
    """A block that this step finished, and what the request shows after it."""

    running: RunningRequest
    block_index: int
    visible: Visible
    time_s: float
    """Of ``time.perf_counter``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedRequest:
    """A request that this step could not decide, and what it shows."""

    running: RunningRequest
    visible: Visible
    reason: str
    time_s: float
    """Of ``time.perf_counter``."""


Change = CommittedBlock | FailedRequest


class ProgressKeeper:
    """The only writer of canvases; tells the pages which rows were written and which changed.

    Args:
        scheduler: Told of finished requests, whose pages are freed at once.
        keeper: Told when rows were written, which others may then share.
        stop_rule: Asked at every committed block.
        stats: Told of every step.
        num_layers: Of the model.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        keeper: PageKeeper,
        stop_rule: StopRule,
        stats: StatsKeeper,
        *,
        num_layers: int,
    ) -> None:
        self._stats = stats
        self._num_layers = num_layers
        self._scheduler = scheduler
        self._keeper = keeper
        self._stop_rule = stop_rule

    def apply(
        self, batch: StepBatch, decisions: Sequence[RowDecision | RowFailure]
    ) -> list[Change]:
        """Carry out a step's decisions; returns the blocks it finished and the requests it lost.

        Those for blocks that are done by now, and for requests that have gone, are dropped.
        """
        if batch.entries:
            self._stats.count_step(is_ahead=batch.carried is not None)
        self._keeper.canvases.confirm()
        changes: list[Change] = [
            self._fail(refused.running, refused.reason) for refused in batch.refused
        ]
        for entry, decision in zip(batch.entries, decisions, strict=True):
            if not entry.is_wanted:
                self._stats.count_lost(entry.computed_rows(self._num_layers))
                continue
            if isinstance(decision, RowFailure):
                self._count(entry)
                changes.append(self._fail(entry.running, decision.reason))
                continue
            self._record(batch, entry, decision)
            self._change(entry, decision)
            self._keeper.share(entry.running)
            request = entry.running.request
            if not request.canvas.is_block_done:
                continue
            if decision.hold:
                request.num_held_in_block += 1
            else:
                changes.append(self._commit(entry.running))
        return changes

    def forget(self, batch: StepBatch) -> None:
        """A step was launched, and its decisions are not wanted."""
        self._stats.count_step(is_ahead=batch.carried is not None)
        for entry in batch.entries:
            self._stats.count_lost(entry.computed_rows(self._num_layers))
            canvas, pages = entry.running.request.canvas, entry.running.pages
            if entry.is_wanted and entry.carried is not None and pages is not None:
                # It may have written rows of tokens that the block never had.
                block = np.arange(canvas.block_start, canvas.block_stop, dtype=np.int32)
                pages.mark_dirty(block)

    def _record(self, batch: StepBatch, entry: ScheduledRequest, decision: RowDecision) -> None:
        if entry.running.recorder is not None and decision.trace is not None:
            elapsed_s = time.perf_counter() - batch.started_s
            rows = entry.computed_rows(self._num_layers)
            entry.running.recorder.record(entry.plan, rows, decision.trace, elapsed_s)

    def _change(self, entry: ScheduledRequest, decision: RowDecision) -> None:
        running, plan = entry.running, entry.plan
        request, canvas = running.request, running.request.canvas
        unmasked = (decision.unmask_offsets + canvas.block_start).astype(np.int32)
        revoked = (decision.revoke_offsets + canvas.block_start).astype(np.int32)
        edited = (decision.edit_offsets + canvas.block_start).astype(np.int32)
        if running.pages is not None:
            # The forward saw the tokens from before this step: written first, then dirty.
            running.pages.mark_written(plan.write)
            if entry.canvas_key is not None:
                self._keeper.canvases.store(running, entry.canvas_key)
            for changed in (unmasked, revoked, edited):
                if len(changed):
                    running.pages.mark_dirty(changed)
        if len(revoked):
            canvas.revoke(revoked)
        if len(edited):
            canvas.edit(edited, decision.edit_ids)
            request.note_confidence(edited, decision.edit_confidence)
        if len(unmasked):
            canvas.unmask(unmasked, decision.unmask_ids)
            request.note_confidence(unmasked, decision.unmask_confidence)
        running.state = decision.state
        if decision.logprobs:
            put = [*unmasked.tolist(), *edited.tolist()]
            request.logprobs.update(zip(put, decision.logprobs, strict=True))
        request.num_unmasked += len(unmasked) - len(revoked)
        request.num_revoked_in_block += len(revoked)
        request.num_edited += len(edited)
        self._count(entry)

    def _count(self, entry: ScheduledRequest) -> None:
        entry.running.request.count_forward(
            entry.computed_rows(self._num_layers),
            is_refresh=entry.plan.kind in (StepKind.REFRESH, StepKind.PREFILL),
        )

    def _fail(self, running: RunningRequest, reason: str) -> FailedRequest:
        self._scheduler.remove(running.request.request_id)
        return FailedRequest(
            running=running,
            visible=self._stop_rule.visible(running.request),
            reason=reason,
            time_s=time.perf_counter(),
        )

    def _commit(self, running: RunningRequest) -> CommittedBlock:
        request = running.request
        canvas = request.canvas
        index = canvas.block_index
        if canvas.opens_block and running.pages is not None:
            # Its rows have seen what lies behind them, which rows of the context do not.
            block = np.arange(canvas.block_start, canvas.block_stop, dtype=np.int32)
            running.pages.mark_dirty(block)
        request.commit_block()
        visible = self._stop_rule.visible(request)
        if visible.finish_reason is None:
            running.open_block()
        else:
            self._scheduler.remove(request.request_id)
        return CommittedBlock(
            running=running, block_index=index, visible=visible, time_s=time.perf_counter()
        )
