"""Logits of a batch to one decision per request."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from starr_engine.decoding.decoder import DecodingRow, RowDecision, RowFailure, decide_rows
from starr_engine.decoding.forbidden import forbid
from starr_engine.decoding.scores import Noise, score_rows
from starr_engine.engine.batching import StepBatch


class Decoder:
    """Scores the logits and lets every request's policy decide.

    Args:
        mask_token_id: From the checkpoint.
    """

    def __init__(self, mask_token_id: int) -> None:
        self._mask_token_id = mask_token_id

    @torch.inference_mode()
    def decide(self, batch: StepBatch, logits: Tensor) -> list[RowDecision | RowFailure]:
        """What changes in every scheduled request's block, or why it fails, in schedule order."""
        noise = self._noise(batch)
        drawing = [draw for draw in noise if draw is not None]
        forbid(
            logits,
            [
                (len(positions), entry.running.request.forbidden_ids)
                for scored in (batch.score_positions, batch.shadow_positions)
                for entry, positions in zip(batch.schedule, scored, strict=True)
            ],
        )
        scores = score_rows(logits, batch.present_ids, self._mask_token_id, drawing)
        rows = []
        for entry, positions, shadows, draw in zip(
            batch.schedule, batch.score_positions, batch.shadow_positions, noise, strict=True
        ):
            running, request = entry.running, entry.running.request
            canvas = request.canvas
            start = canvas.block_start
            rows.append(
                DecodingRow(
                    policy=running.remasking,
                    state=running.state,
                    block_ids=canvas.active_block,
                    is_fixed=canvas.is_fixed[start : canvas.block_stop],
                    mask_token_id=self._mask_token_id,
                    step=request.steps_in_block,
                    num_left=start,
                    num_revoked=request.num_revoked_in_block,
                    progress=request.num_unmasked / canvas.num_masks,
                    seed=request.params.seed,
                    score_offsets=positions.astype(np.int64) - start,
                    shadow_offsets=shadows.astype(np.int64) - start,
                    noise=draw,
                    exit_rule=running.exit_rule,
                )
            )
        return decide_rows(rows, scores, logits)

    def _noise(self, batch: StepBatch) -> list[Noise | None]:
        noise: list[Noise | None] = []
        first = 0
        for entry, positions in zip(batch.schedule, batch.score_positions, strict=True):
            request = entry.running.request
            rows = slice(first, first + len(positions))
            first = rows.stop
            noise.append(
                Noise(
                    rows=rows,
                    temperature=request.params.temperature,
                    seed=request.params.seed,
                    step=request.num_forwards,
                )
                if request.params.temperature > 0
                else None
            )
        return noise
