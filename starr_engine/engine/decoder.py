"""Logits of a batch to one decision per request."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from starr_engine.decoding.decoder import DecodingRow, RowDecision, RowFailure, decide_rows
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
        scores = score_rows(logits, batch.present_ids, self._mask_token_id, drawing)
        rows = []
        for entry, positions, draw in zip(
            batch.schedule, batch.score_positions, noise, strict=True
        ):
            running, request = entry.running, entry.running.request
            start = request.canvas.block_start
            rows.append(
                DecodingRow(
                    policy=running.remasking,
                    state=running.state,
                    block_ids=request.canvas.active_block,
                    mask_token_id=self._mask_token_id,
                    step=request.steps_in_block,
                    num_left=start,
                    num_revoked=request.num_revoked_in_block,
                    progress=request.num_unmasked / request.params.max_tokens,
                    seed=request.params.seed,
                    score_offsets=positions.astype(np.int64) - start,
                    noise=draw,
                    trace=running.recorder is not None,
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
