"""What rows of the active block hold and are told in models of uniform noise.

Where a masked model sees the mask token, such a model sees a token drawn uniformly from the
vocabulary, and every step draws anew: what a step has not accepted is noise again. The canvas keeps
its masks; the draws stand beside it and depend on the request's seed, block and step alone, so that
neither company nor an interruption changes them.

A self-conditioned model is told, at the row of each position, what it made of that position when it
was last scored: nothing in a block's first step.

Source:
    DiffusionGemma's sampler in transformers 5.23, which draws from torch's global generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from starr_engine.decoding.transfer import upload
from starr_engine.engine.running import RunningRequest
from starr_engine.models.base import CanvasRows, DiffusionModel, ModelSpec
from starr_engine.request import Positions, Request

_STREAM: Final = 0xD8AF7
"""Keeps these draws apart from those of candidates."""

_ROWS_AT_ONCE: Final = 256
"""Rows whose probabilities over the vocabulary are in memory at once."""


def draft_ids(request: Request, spec: ModelSpec) -> NDArray[np.int64]:
    """Tokens [block length] that stand for masks at a request's next step, never the mask token."""
    canvas = request.canvas
    key = (_STREAM, canvas.block_index, request.steps_in_block)
    generator = np.random.default_rng(np.random.SeedSequence(request.params.seed, spawn_key=key))
    drawn = generator.integers(spec.vocab_size - 1, size=len(canvas.active_block))
    return drawn + (drawn >= spec.mask_token_id)


def put_drafts(
    requests: Sequence[Request],
    spec: ModelSpec,
    input_ids: NDArray[np.int64],
    positions: NDArray[np.int64],
    cu_query: NDArray[np.int32],
) -> None:
    """Replace the masks among the rows of a step, shadow rows too, by draws.

    Args:
        requests: In the order of the rows.
        spec: Of the model.
        input_ids: [T]; changed.
        positions: [T].
        cu_query: [R+1].
    """
    for request, start, stop in zip(
        requests, cu_query[:-1].tolist(), cu_query[1:].tolist(), strict=True
    ):
        rows = start + np.flatnonzero(input_ids[start:stop] == spec.mask_token_id)
        input_ids[rows] = draft_ids(request, spec)[positions[rows] - request.canvas.block_start]


def canvas_rows(
    running: Sequence[RunningRequest],
    spec: ModelSpec,
    positions: NDArray[np.int64],
    cu_query: NDArray[np.int32],
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> CanvasRows:
    """Rows of active blocks among those of a step, and what they are told.

    Args:
        running: In the order of the rows.
        spec: Of the model.
        positions: [T].
        cu_query: [R+1].
        dtype: Of the model's rows.
        device: Of the model.
    """
    starts = np.array([each.request.canvas.block_start for each in running], np.int64)
    is_canvas = positions >= np.repeat(starts, np.diff(cu_query))
    rows = np.flatnonzero(is_canvas)
    soft = torch.zeros((len(rows), spec.hidden_size), dtype=dtype, device=device)
    bounds = np.searchsorted(rows, cu_query).tolist()
    for each, first, last, start in zip(
        running, bounds[:-1], bounds[1:], starts.tolist(), strict=True
    ):
        if each.soft is not None:
            offsets = upload(positions[rows[first:last]] - start, device)
            torch.index_select(each.soft, 0, offsets, out=soft[first:last])
    return CanvasRows(
        is_canvas=upload(is_canvas, device),
        rows=upload(rows, device),
        soft=soft,
    )


def remember(
    model: DiffusionModel,
    running: Sequence[RunningRequest],
    scored: Sequence[Positions],
    logits: Tensor,
) -> None:
    """Keep what a self-conditioned model is told at the next step of every request.

    Logits are divided by the temperature at which the request's policy reads them; nothing else
    that the request asks of them plays a part.

    Args:
        model: Self-conditioned.
        running: In the order of the rows.
        scored: Of each request, the positions whose logits these are, ascending.
        logits: [M, V], those of ``scored`` in front.
    """
    first = 0
    for each, positions in zip(running, scored, strict=True):
        block = each.request.canvas.active_block
        temperature = each.remasking.temperature(each.request.steps_in_block)
        offsets = upload(
            positions.astype(np.int64) - each.request.canvas.block_start, logits.device
        )
        for rows, places in zip(
            torch.split(logits[first : first + len(positions)], _ROWS_AT_ONCE),
            torch.split(offsets, _ROWS_AT_ONCE),
            strict=True,
        ):
            made = model.soft_rows(rows / temperature)
            if each.soft is None:
                each.soft = made.new_zeros((len(block), made.shape[1]))
            each.soft[places] = made
        first += len(positions)
