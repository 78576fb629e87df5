"""Decisions of a step to what a trace says of them, for the rows that are traced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from starr_engine.decoding.base import BlockView, Decision
from starr_engine.decoding.transfer import upload
from starr_engine.trace import Codes, Decider, Floats, Outcome, PositionTrace

Stages = Sequence[tuple[Decider, Decision]]
"""The decision as each in turn left it; the first is the policy's, the last is carried out."""


def trace_rows(
    view: BlockView, stages: Stages, score_offsets: Sequence[NDArray[np.int64] | None]
) -> list[PositionTrace | None]:
    """What happened in every traced row, and who made it happen.

    Args:
        view: What was decided on, n rows.
        stages: Who saw the decision, in order.
        score_offsets: [n] offsets within the block that were scored; None for a row without trace.

    Returns:
        One entry per row, on the host; None for a row without trace.
    """
    traced = [n for n, offsets in enumerate(score_offsets) if offsets is not None]
    found: list[PositionTrace | None] = [None] * len(score_offsets)
    if not traced:
        return found
    shape, rows = view.masked.shape, upload(np.array(traced, np.int64), view.masked.device)

    def host(values: Tensor) -> NDArray[Any]:
        array: NDArray[Any] = values.expand(shape)[rows].cpu().numpy()
        return array

    masked = host(view.masked)
    outcomes = deciders = np.zeros(masked.shape, np.uint8)
    for decider, decision in stages:
        nothing = view.masked.new_zeros(())
        revoke = nothing if decision.revoke is None else decision.revoke
        edit = nothing if decision.edit is None else decision.edit
        left = _outcomes(masked, host(decision.unmask), host(revoke), host(edit))
        if decider is Decider.POLICY:
            deciders = np.where(left == Outcome.KEPT, Decider.NOBODY, decider).astype(np.uint8)
        else:
            deciders = np.where(left == outcomes, deciders, decider).astype(np.uint8)
        outcomes = left

    candidates = host(view.candidates).astype(np.int32)
    final = stages[-1][1]
    put = host(final.tokens_put(view)).astype(np.int32)
    is_put = (outcomes == Outcome.UNMASKED) | (outcomes == Outcome.EDITED)
    candidates = np.where(is_put, put, candidates)
    signals = {name: host(values.float()) for name, values in (final.signals or {}).items()}
    confidence = signals.pop("confidence", host(view.confidence))

    for place, n in enumerate(traced):
        scored = score_offsets[n]
        assert scored is not None
        found[n] = PositionTrace(
            candidates=candidates[place],
            confidence=_only(scored, confidence[place]),
            signals={name: _only(scored, values[place]) for name, values in signals.items()},
            outcomes=outcomes[place],
            deciders=deciders[place],
        )
    return found


def _outcomes(
    masked: NDArray[Any], unmask: NDArray[Any], revoke: NDArray[Any], edit: NDArray[Any]
) -> Codes:
    of_mask = np.where(unmask, Outcome.UNMASKED, Outcome.MASKED)
    of_token = np.where(edit, Outcome.EDITED, Outcome.KEPT)
    of_token = np.where(revoke, Outcome.REVOKED, of_token)
    return np.where(masked, of_mask, of_token).astype(np.uint8)


def _only(scored: NDArray[np.int64], values: Floats) -> Floats:
    """``values`` where the position was scored; elsewhere they are fillings of the view."""
    kept = np.full_like(values, np.nan)
    kept[scored] = values[scored]
    return kept
