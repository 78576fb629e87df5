"""Scores to decisions for all rows of a step: rows of equal policies are decided together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from starr_engine.decoding.base import BlockView, Decision, RemaskingPolicy, State
from starr_engine.decoding.guarantee import guarantee_progress
from starr_engine.decoding.scores import Scores

Offsets = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodingRow:
    """The active block of one request, as far as decoding knows it."""

    policy: RemaskingPolicy

    state: State
    """Of this row alone, first dimension 1; as the last step left it."""

    block_ids: NDArray[np.int32]
    """[L] the block's tokens, masks included."""

    mask_token_id: int

    step: int
    """Denoising steps done in the block before this one."""

    num_left: int
    """Tokens in front of the block."""

    score_offsets: Offsets
    """[m] offsets within the block that were scored, ascending; rows lie in order in ``Scores``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowDecision:
    """What changes in one row's block; offsets within the block, ascending."""

    unmask_offsets: Offsets
    unmask_ids: NDArray[np.int32]
    revoke_offsets: Offsets
    state: State


def decide_rows(rows: Sequence[DecodingRow], scores: Scores) -> list[RowDecision]:
    """Decide every row by its policy, and see to it that each makes progress.

    Args:
        rows: In the order in which their scores lie in ``scores``.
        scores: Of all scored positions of all rows.

    Returns:
        One decision per row, in order, on the host.
    """
    groups: dict[tuple[RemaskingPolicy, int], list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        groups[row.policy, len(row.block_ids)].append(index)
    first_score = np.cumsum([0, *(len(row.score_offsets) for row in rows)])
    decisions: dict[int, RowDecision] = {}
    for (policy, _), members in groups.items():
        group = [rows[index] for index in members]
        view = _view(group, scores, [int(first_score[index]) for index in members])
        state = {name: torch.cat([row.state[name] for row in group]) for name in group[0].state}
        decision, state = policy.decide(view, state)
        decision = guarantee_progress(view, decision)
        _check(view, decision)
        decisions.update(zip(members, _split(view, decision, state), strict=True))
    return [decisions[index] for index in range(len(rows))]


def _view(group: list[DecodingRow], scores: Scores, first_score: list[int]) -> BlockView:
    device = scores.confidence.device
    length = len(group[0].block_ids)
    ids = np.stack([row.block_ids for row in group]).astype(np.int64)
    masks = ids == np.array([[row.mask_token_id] for row in group])
    counts = [len(row.score_offsets) for row in group]
    source = np.concatenate(
        [np.arange(start, start + count) for start, count in zip(first_score, counts, strict=True)]
    )
    target = np.concatenate([row.score_offsets + n * length for n, row in enumerate(group)])
    taken = torch.from_numpy(source).to(device)
    placed = torch.from_numpy(target).to(device)

    def spread(values: Tensor, fill: float) -> Tensor:
        grid = torch.full((len(group) * length,), fill, dtype=values.dtype, device=device)
        grid[placed] = values[taken]
        return grid.view(len(group), length)

    candidates = torch.from_numpy(ids).to(device).view(-1)
    candidates[placed] = scores.candidates[taken]
    return BlockView(
        candidates=candidates.view(len(group), length),
        confidence=spread(scores.confidence, 1.0),
        top1=spread(scores.top1, 1.0),
        top2=spread(scores.top2, 0.0),
        entropy=spread(scores.entropy, 0.0),
        masked=torch.from_numpy(masks).to(device),
        step=torch.tensor([row.step for row in group], device=device),
        num_left=torch.tensor([row.num_left for row in group], device=device),
    )


def _check(view: BlockView, decision: Decision) -> None:
    assert not (decision.unmask & ~view.masked).any(), "a policy unmasked what is no mask"
    if decision.revoke is not None:
        assert not (decision.revoke & view.masked).any(), "a policy revoked a mask"


def _split(view: BlockView, decision: Decision, state: State) -> list[RowDecision]:
    unmask = decision.unmask.cpu().numpy()
    ids = view.candidates.cpu().numpy().astype(np.int32)
    revoke = np.zeros_like(unmask) if decision.revoke is None else decision.revoke.cpu().numpy()
    return [
        RowDecision(
            unmask_offsets=(offsets := np.flatnonzero(unmask[n])),
            unmask_ids=ids[n, offsets],
            revoke_offsets=np.flatnonzero(revoke[n]),
            state={name: values[n : n + 1] for name, values in state.items()},
        )
        for n in range(len(unmask))
    ]
