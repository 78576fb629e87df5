"""A schedule to the flat tensors of one forward."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from starr_engine._core import BatchBuilder, PageTable, PlanError
from starr_engine.attention.windows import WindowView
from starr_engine.cache.base import StepKind, StepPlan
from starr_engine.decoding.facts import KnownFacts
from starr_engine.decoding.transfer import upload
from starr_engine.engine.canvas_cache import CanvasCache
from starr_engine.engine.carried_rows import CarriedRows, fill_sources
from starr_engine.engine.drafting import canvas_rows, put_drafts
from starr_engine.engine.drifting import MeasuredRows, measured_rows
from starr_engine.engine.feature_rows import check_partial, feature_rows
from starr_engine.engine.host_layout import reads_prefix
from starr_engine.engine.scheduler import RefusedRequest, Schedule, ScheduledRequest
from starr_engine.engine.step_arrays import StepArrays, StepSizes
from starr_engine.engine.step_batch import CheckedStep, StepBatch
from starr_engine.models.base import ModelSpec
from starr_engine.request import Positions


class Batcher:
    """Builds batches in C++, which refuses a plan that breaks a rule before anything runs.

    Args:
        page_size: Rows of a page.
        mask_token_id: From the checkpoint; what shadow rows hold.
        device: Of the model.
        mask_block: See ``ModelSpec.mask_block``.
        opens_block: See ``ModelSpec.opens_block``.
        canvases: Says which pages to copy first.
        max_num_batched_tokens: Most rows of one forward of probes.
        spec: Of the model, where its noise, its self-conditioning or its windows ask for more than
            the above; None for a model without any.
        dtype: Of the model's rows.
        defers_upload: Whether batches stay on the host until it is known that no recording takes
            them; for models whose rows are all alike.
    """

    def __init__(
        self,
        page_size: int,
        mask_token_id: int,
        device: torch.device,
        mask_block: int | None,
        canvases: CanvasCache,
        *,
        opens_block: bool = False,
        max_num_batched_tokens: int,
        spec: ModelSpec | None = None,
        dtype: torch.dtype = torch.float32,
        defers_upload: bool = False,
    ) -> None:
        self._spec = spec
        self._defers_upload = defers_upload
        shapes = () if spec is None else spec.layer_shapes
        self._window_sizes = {shape.window for shape in shapes if shape.window is not None}
        self._dtype = dtype
        self._canvases = canvases
        self._max_rows = max_num_batched_tokens
        self._builder = BatchBuilder(page_size, mask_block or 0, opens_block)
        self._mask_block = mask_block
        self._mask_token_id = mask_token_id
        self._device = device

    def check(self, schedule: Schedule) -> CheckedStep:
        """Leave out every plan that breaks a rule."""
        started_s = time.perf_counter()
        self._builder.clear()
        scored: list[Positions] = []
        shadowed: list[Positions] = []
        entries: list[ScheduledRequest] = []
        refused = list(schedule.refused)
        for entry in schedule:
            masks, shadows = entry.running.score_positions(), entry.running.shadow_positions()
            try:
                self._add(entry, entry.running.pages, masks, shadows)
            except PlanError as error:
                reason = f"{type(entry.running.cache).__name__} failed: {error}"
                refused.append(RefusedRequest(running=entry.running, reason=reason))
                continue
            entries.append(entry)
            scored.append(masks)
            shadowed.append(shadows)
        return CheckedStep(
            entries=tuple(entries),
            score_positions=tuple(scored),
            shadow_positions=tuple(shadowed),
            refused=tuple(refused),
            started_s=started_s,
        )

    def lay_out(self, step: CheckedStep, facts: KnownFacts) -> StepBatch:
        """Lay out the step that was checked last, and what is known of its blocks behind it."""
        batch = self._lay_out(step, facts)
        entries = zip(step.entries, step.score_positions, strict=True)
        probed = [(entry, masks) for entry, masks in entries if entry.running.is_probed]
        return replace(
            batch,
            copies=self._canvases.take_copies(),
            refused=step.refused,
            probes=self._probes(probed),
        )

    def _probes(
        self, probed: Sequence[tuple[ScheduledRequest, Positions]]
    ) -> tuple[StepBatch, ...]:
        """All live rows of the requests, computed and read without pages; within the row budget."""
        chunks: list[list[tuple[ScheduledRequest, Positions]]] = []
        budget = 0
        for entry, masks in probed:
            live = entry.running.request.canvas.num_live
            rows = ((0, live),)
            plan = StepPlan(kind=StepKind.BLOCK, query=rows, write=(), read=rows)
            if live > budget:
                chunks.append([])
                budget = self._max_rows
            budget -= live
            chunk = ScheduledRequest(running=entry.running, plan=plan, shadow=())
            chunks[-1].append((chunk, masks))
        return tuple(self._probe(chunk) for chunk in chunks)

    def _probe(self, chunk: Sequence[tuple[ScheduledRequest, Positions]]) -> StepBatch:
        started_s = time.perf_counter()
        nothing = np.empty(0, np.int32)
        self._builder.clear()
        for entry, masks in chunk:
            self._add(entry, None, masks, nothing)
        step = CheckedStep(
            entries=tuple(entry for entry, _ in chunk),
            score_positions=tuple(masks for _, masks in chunk),
            shadow_positions=(nothing,) * len(chunk),
            refused=(),
            started_s=started_s,
        )
        return self._lay_out(step, KnownFacts([]))

    def _lay_out(self, step: CheckedStep, facts: KnownFacts) -> StepBatch:
        """What the builder holds, as tensors."""
        entries, carried = step.entries, step.carried
        arrays = self._fill(is_ahead=carried is not None, num_facts=facts.size)
        packed = arrays.packed
        facts.fill(packed.tail)
        positions, slots = packed.int64("positions"), packed.int64("slot_mapping")
        layout = arrays.rows()
        reads = [entry.plan.read for entry in entries]
        packed.int32("reads_prefix")[:] = reads_prefix(reads, np.diff(layout.cu_read))
        requests = [entry.running.request for entry in entries]
        if self._spec is not None and self._spec.noise == "uniform":
            put_drafts(requests, self._spec, packed.int64("input_ids"), positions, layout.cu_query)
        if carried is not None:
            fill_sources(packed, entries, layout.cu_query)
        keeps_features = any(entry.running.cache.keeps_features for entry in entries)
        waits = self._defers_upload and not keeps_features
        memory = packed.host if waits else packed.upload()
        tensors = packed.views(memory)
        attention = arrays.attention(layout, tensors)
        canvas = None
        if self._spec is not None and self._spec.self_conditioning:
            canvas = canvas_rows(
                [entry.running for entry in entries],
                self._spec,
                positions,
                layout.cu_query,
                dtype=self._dtype,
                device=self._device,
            )
        return StepBatch(
            entries=entries,
            input_ids=tensors["input_ids"],
            positions=tensors["positions"],
            logits_rows=tensors["logits_rows"],
            score_positions=step.score_positions,
            shadow_positions=step.shadow_positions,
            attention=attention,
            arrays=arrays,
            started_s=step.started_s,
            facts=packed.tail_of(memory),
            tensors=tensors,
            is_on_host=waits,
            carried=None if carried is None else CarriedRows(carried),
            canvas=canvas,
            windows=self._windows(entries, arrays, tensors),
            features=feature_rows(entries, positions, slots, attention, self._upload),
            measured=self._measured(entries, layout.cu_query, slots),
        )

    def _fill(self, *, is_ahead: bool, num_facts: int) -> StepArrays:
        """What the builder holds; all that it does not know is left to the caller."""
        builder = self._builder
        sizes = StepSizes(
            builder.num_query_rows,
            builder.num_requests,
            builder.num_read_rows,
            builder.max_pages,
            builder.num_score_rows,
        )
        arrays = StepArrays(sizes, self._device, is_ahead=is_ahead, num_facts=num_facts)
        packed = arrays.packed
        builder.fill(
            input_ids=packed.int64("input_ids"),
            positions=packed.int64("positions"),
            slot_mapping=packed.int64("slot_mapping"),
            cu_query=packed.int32("cu_query"),
            cu_read=packed.int32("cu_read"),
            read_slots=packed.int64("read_slots"),
            page_table=packed.int32("page_table"),
            logits_rows=packed.int64("logits_rows"),
            score_request=packed.int32("score_request"),
            score_positions=packed.int32("score_positions"),
            shadow_lens=packed.int32("shadow_lens"),
            shadow_columns=packed.int32("shadow_columns"),
            visible=packed.int32("visible"),
            limited=packed.int32("limited"),
        )
        return arrays

    def _windows(
        self,
        entries: Sequence[ScheduledRequest],
        arrays: StepArrays,
        tensors: Mapping[str, Tensor],
    ) -> dict[int, WindowView]:
        if not self._window_sizes:
            return {}
        layout, positions = arrays.rows(), arrays.packed.int64("positions")
        starts = [entry.running.request.canvas.block_start for entry in entries]
        views: dict[int, WindowView] = {}
        reads = [entry.plan.read for entry in entries]
        assert all(rows[0][0] == 0 and len(rows) == 1 for rows in reads)
        anchors = np.minimum(positions, np.repeat(starts, np.diff(layout.cu_query)))
        for window in self._window_sizes:
            cut, hidden = layout.cut(anchors.astype(np.int32), window)
            if len(cut.read_slots) == len(layout.read_slots) and not hidden.any():
                continue
            own = {
                "cu_read": self._upload(cut.cu_read),
                "read_slots": self._upload(cut.read_slots),
                "visible": self._upload(cut.visible),
            }
            views[window] = WindowView(
                attention=arrays.attention(cut, {**tensors, **own}),
                hidden=self._upload(hidden) if hidden.any() else None,
            )
        return views

    def _measured(
        self,
        entries: Sequence[ScheduledRequest],
        cu_query: NDArray[np.int32],
        slots: NDArray[np.int64],
    ) -> MeasuredRows | None:
        measured, rows = measured_rows(entries, cu_query)
        if not measured:
            return None
        flat = np.concatenate(rows)
        return MeasuredRows(
            entries=tuple(measured),
            counts=tuple(len(each) for each in rows),
            rows=self._upload(flat),
            slots=self._upload(slots[flat]),
        )

    def _add(
        self,
        entry: ScheduledRequest,
        pages: PageTable | None,
        scored: Positions,
        shadowed: Positions,
    ) -> None:
        check_partial(entry, self._mask_block)
        canvas, plan = entry.running.request.canvas, entry.plan
        self._builder.add(
            pages,
            canvas.token_ids[: canvas.num_live],
            plan.query,
            plan.write,
            plan.read,
            canvas.sources(scored),
            (canvas.block_start, canvas.block_stop),
            bool(plan.dirty_allowed),
            entry.shadow,
            shadowed,
            self._mask_token_id,
            plan.isolated,
        )

    def _upload(self, array: NDArray[np.generic]) -> Tensor:
        return upload(array, self._device)
