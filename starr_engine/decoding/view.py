"""Scores and logits of a step to what one policy sees of its rows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from starr_engine.decoding.base import BlockView, RemaskingPolicy
from starr_engine.decoding.eos_last import flatten, late_rows, postpone
from starr_engine.decoding.rows import DecodingRow, Member
from starr_engine.decoding.scores import Scores, add_gumbel


def make_view(
    policy: RemaskingPolicy, members: list[Member], scores: Scores, logits: Tensor
) -> BlockView:
    """The view of rows that are decided together.

    Args:
        policy: Of all of them; says whether it needs logits or shadow rows.
        members: n rows of one block length.
        scores: Of all rows of the step.
        logits: [M, V] what the scores were computed from.
    """
    shadow_confidence = _shadow_confidence(members, scores) if policy.needs_shadow else None
    group = [member.row for member in members]
    device = scores.confidence.device
    length = len(group[0].block_ids)
    ids = np.stack([row.block_ids for row in group]).astype(np.int64)
    masks = ids == np.array([[row.mask_token_id] for row in group])
    counts = [len(row.score_offsets) for row in group]
    source = np.concatenate(
        [
            np.arange(member.first_score, member.first_score + count)
            for member, count in zip(members, counts, strict=True)
        ]
    )
    target = np.concatenate([row.score_offsets + n * length for n, row in enumerate(group)])
    taken = torch.from_numpy(source).to(device)
    placed = torch.from_numpy(target).to(device)
    masked = torch.from_numpy(masks).to(device)
    scores = scores.take(taken)
    late_proposals = late_rows(scores.proposals, [row.late_ids for row in group], counts)
    late = None
    if late_proposals is not None:
        late = late_proposals & masked.view(-1)[placed]
        scores = postpone(scores, late, late_proposals, logits.shape[1])

    def spread(values: Tensor, fill: float) -> Tensor:
        grid = torch.full((len(group) * length,), fill, dtype=values.dtype, device=device)
        grid[placed] = values
        return grid.view(len(group), length)

    def spread_rows(values: Tensor) -> Tensor:
        grid = values.new_zeros((len(group) * length, values.shape[1]))
        grid[placed] = values
        return grid.view(len(group), length, -1)

    given = drawn = None
    if policy.needs_logits:
        taken_logits = _allowed_logits(group, logits[taken])
        noisy = _with_noise(group, taken_logits)
        shown = taken_logits if late is None else flatten(taken_logits, scores.candidates, late)
        given = spread_rows(shown)
        drawn = given if noisy is taken_logits else spread_rows(noisy)
    candidates = torch.from_numpy(ids).to(device).view(-1)
    proposals = candidates.clone()
    candidates[placed], proposals[placed] = scores.candidates, scores.proposals
    return BlockView(
        candidates=candidates.view(len(group), length),
        confidence=spread(scores.confidence, 1.0),
        top1=spread(scores.top1, 1.0),
        top2=spread(scores.top2, 0.0),
        entropy=spread(scores.entropy, 0.0),
        masked=masked,
        step=torch.tensor([row.step for row in group], device=device),
        num_left=torch.tensor([row.num_left for row in group], device=device),
        progress=torch.tensor([row.progress for row in group], device=device),
        at_edge=torch.tensor([row.at_edge for row in group], device=device),
        seed=torch.tensor([row.seed for row in group], device=device),
        logit=spread(scores.logit, 0.0),
        proposals=proposals.view(len(group), length),
        proposal_confidence=spread(scores.proposal_confidence, 1.0),
        logits=given,
        sampling_logits=drawn,
        shadow_confidence=shadow_confidence,
    )


def _shadow_confidence(members: list[Member], scores: Scores) -> Tensor:
    grid = scores.confidence.new_ones((len(members), len(members[0].row.block_ids)))
    for n, member in enumerate(members):
        offsets = member.row.shadow_offsets
        assert offsets is not None, "the policy needs shadow rows"
        checked = torch.from_numpy(offsets).to(grid.device)
        grid[n, checked] = scores.confidence[member.shadow_scores]
    return grid


def _allowed_logits(group: list[DecodingRow], logits: Tensor) -> Tensor:
    """A float32 copy in which no row can take its mask token."""
    counts = torch.tensor([len(row.score_offsets) for row in group], device=logits.device)
    masks = torch.tensor([row.mask_token_id for row in group], device=logits.device)
    column = masks.repeat_interleave(counts)[:, None]
    return logits.to(torch.float32, copy=True).scatter_(1, column, -torch.inf)


def _with_noise(group: list[DecodingRow], logits: Tensor) -> Tensor:
    """``logits`` itself if no row of the group samples, else a float64 copy with the noise."""
    if all(row.noise is None for row in group):
        return logits
    noisy = logits.double()
    first = 0
    for row in group:
        rows = slice(first, first + len(row.score_offsets))
        first = rows.stop
        if row.noise is not None:
            noisy[rows] = add_gumbel(noisy[rows], row.noise)
    return noisy
