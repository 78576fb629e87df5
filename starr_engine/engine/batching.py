"""A schedule to the flat tensors of one forward."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from starr_engine._core import BatchBuilder, PlanError
from starr_engine.attention.base import AttentionMetadata
from starr_engine.engine.canvas_cache import CanvasCache, PageCopy
from starr_engine.engine.feature_rows import FeatureRows, check_partial, feature_rows
from starr_engine.engine.scheduler import RefusedRequest, Schedule, ScheduledRequest
from starr_engine.request import Positions, TokenIds


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBatch:
    """Everything the forward and the decoder of one step need; T rows, M of them scored."""

    entries: tuple[ScheduledRequest, ...]
    """Who takes part, in the order of the rows."""

    refused: tuple[RefusedRequest, ...]
    """Who does not, because no plan could be made or the plan breaks a rule."""

    input_ids: Tensor
    """[T] int64, masks included."""

    positions: Tensor
    """[T] int64, counted from 0 in each request."""

    logits_rows: Tensor
    """[M] int64 flat rows that need logits, request by request; then shadow rows, likewise."""

    present_ids: Tensor
    """[M] int64 token that stands on the canvas at each scored row's position, or the mask."""

    score_positions: tuple[Positions, ...]
    """Per request: canvas positions scored, ascending."""

    shadow_positions: tuple[Positions, ...]
    """Per request: canvas positions whose shadow rows are scored, ascending."""

    attention: AttentionMetadata

    copies: tuple[PageCopy, ...]
    """Pages to copy, in order, before any row is written."""

    started_s: float
    """When its laying out began, of ``time.perf_counter``."""

    features: FeatureRows | None = None
    """Rows that keep what layers add to them; None if there are none."""


class Batcher:
    """Builds batches in C++, which refuses a plan that breaks a rule before anything runs.

    Args:
        page_size: Rows of a page.
        mask_token_id: From the checkpoint; what shadow rows hold.
        device: Of the model.
        mask_block: Block length of the attention mask; None if it is bidirectional.
        canvases: Says which pages to copy first.
    """

    def __init__(
        self,
        page_size: int,
        mask_token_id: int,
        device: torch.device,
        mask_block: int | None,
        canvases: CanvasCache,
    ) -> None:
        self._canvases = canvases
        self._builder = BatchBuilder(page_size, mask_block or 0)
        self._mask_block = mask_block
        self._mask_token_id = mask_token_id
        self._device = device

    def build(self, schedule: Schedule) -> StepBatch:
        """Check every plan and lay out the step; a plan that breaks a rule is left out of it."""
        started_s = time.perf_counter()
        builder = self._builder
        builder.clear()
        scored: list[Positions] = []
        shadowed: list[Positions] = []
        checked: list[TokenIds] = []
        entries: list[ScheduledRequest] = []
        refused = list(schedule.refused)
        for entry in schedule:
            masks, shadows = entry.running.score_positions(), entry.running.shadow_positions()
            try:
                self._add(entry, masks, shadows)
            except PlanError as error:
                reason = f"{type(entry.running.cache).__name__} failed: {error}"
                refused.append(RefusedRequest(running=entry.running, reason=reason))
                continue
            entries.append(entry)
            scored.append(masks)
            shadowed.append(shadows)
            if entry.shadow:
                checked.append(entry.running.request.canvas.token_ids[shadows])
        num_rows, num_requests = builder.num_query_rows, builder.num_requests
        input_ids, positions, slots = np.empty((3, num_rows), np.int64)
        cu_query, cu_read = np.empty((2, num_requests + 1), np.int32)
        read_slots = np.empty(builder.num_read_rows, np.int64)
        page_table = np.empty((num_requests, builder.max_pages), np.int32)
        logits_rows = np.empty(builder.num_score_rows, np.int64)
        score_request, score_positions = np.empty((2, builder.num_score_rows), np.int32)
        shadow_lens, shadow_columns, limited = np.empty((3, num_requests), np.int32)
        visible = np.empty(num_rows, np.int32)
        builder.fill(
            input_ids=input_ids,
            positions=positions,
            slot_mapping=slots,
            cu_query=cu_query,
            cu_read=cu_read,
            read_slots=read_slots,
            page_table=page_table,
            logits_rows=logits_rows,
            score_request=score_request,
            score_positions=score_positions,
            shadow_lens=shadow_lens,
            shadow_columns=shadow_columns,
            visible=visible,
            limited=limited,
        )
        present_ids = input_ids[logits_rows]
        if checked:  # the shadow rows, which hold the mask instead of the token they check
            tokens = np.concatenate(checked)
            present_ids[-len(tokens) :] = tokens
        query_lens, paged_lens = np.diff(cu_query), np.diff(cu_read)
        fresh = paged_lens == 0
        attention = AttentionMetadata(
            cu_query=self._upload(cu_query),
            cu_read=self._upload(cu_read),
            read_slots=self._upload(read_slots),
            slot_mapping=self._upload(slots),
            page_table=self._upload(page_table),
            query_lens=tuple(query_lens.tolist()),
            read_lens=tuple(np.where(fresh, query_lens - shadow_lens, paged_lens).tolist()),
            fresh=tuple(fresh.tolist()),
            shadow_lens=tuple(shadow_lens.tolist()),
            shadow_columns=tuple(shadow_columns.tolist()),
            visible=self._upload(visible),
            limited=tuple((limited != 0).tolist()),
        )
        return StepBatch(
            entries=tuple(entries),
            copies=self._canvases.take_copies(),
            refused=tuple(refused),
            input_ids=self._upload(input_ids),
            positions=self._upload(positions),
            logits_rows=self._upload(logits_rows),
            present_ids=self._upload(present_ids),
            score_positions=tuple(scored),
            shadow_positions=tuple(shadowed),
            attention=attention,
            started_s=started_s,
            features=feature_rows(entries, positions, slots, attention, self._upload),
        )

    def _add(self, entry: ScheduledRequest, scored: Positions, shadowed: Positions) -> None:
        check_partial(entry, self._mask_block)
        canvas, plan = entry.running.request.canvas, entry.plan
        self._builder.add(
            entry.running.pages,
            canvas.token_ids[: canvas.num_live],
            plan.query,
            plan.write,
            plan.read,
            scored,
            (canvas.block_start, canvas.block_stop),
            bool(plan.dirty_allowed),
            entry.shadow,
            shadowed,
            self._mask_token_id,
            plan.isolated,
        )

    def _upload(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self._device)
