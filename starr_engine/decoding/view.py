"""Scores and logits of a step to what one policy sees of its rows."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from starr_engine.decoding.base import BlockView, RemaskingPolicy
from starr_engine.decoding.eos_last import flatten, late_rows, postpone
from starr_engine.decoding.facts import BlockFacts
from starr_engine.decoding.noise import add_gumbel
from starr_engine.decoding.rows import DecodingRow, Member
from starr_engine.decoding.scores import Scores
from starr_engine.decoding.transfer import upload


def make_view(
    policy: RemaskingPolicy,
    members: list[Member],
    facts: BlockFacts,
    scores: Scores,
    logits: Tensor,
) -> BlockView:
    """The view of rows that are decided together.

    Args:
        policy: Of all of them; says whether it needs logits or shadow rows.
        members: n rows of one block length.
        facts: Of these rows.
        scores: Of all rows of the step.
        logits: [M, V] what the scores were computed from.
    """
    shadow_confidence = _shadow_confidence(members, scores) if policy.needs_shadow else None
    group = [member.row for member in members]
    shape = count, length = facts.token_ids.shape
    counts = [len(row.score_offsets) for row in group]
    taken, placed, masked = facts.taken, facts.placed, facts.masked
    # Members come in the order of the scores: as many as there are, are all of them as they lie.
    scores = scores if len(taken) == len(scores.confidence) else scores.take(taken)
    late_proposals = late_rows(scores.proposals, [row.late_ids for row in group], counts)
    late = None
    if late_proposals is not None:
        late = late_proposals & masked.view(-1)[placed]
        scores = postpone(scores, late, late_proposals, logits.shape[1])

    def spread(fill: float, *columns: Tensor) -> tuple[Tensor, ...]:
        """Columns [m] of one dtype on the grid, each [n, L]."""
        grid = columns[0].new_full((len(columns), count * length), fill)
        return grid.index_copy_(1, placed, torch.stack(columns)).view(-1, *shape).unbind(0)

    def spread_rows(values: Tensor) -> Tensor:
        grid = values.new_zeros((count * length, values.shape[1]))
        grid[placed] = values
        return grid.view(*shape, -1)

    given = drawn = None
    if policy.needs_logits:
        taken_logits = _allowed_logits(logits[taken], facts.mask_ids[placed // length])
        noisy = _with_noise(group, taken_logits)
        shown = taken_logits if late is None else flatten(taken_logits, scores.candidates, late)
        given = spread_rows(shown)
        drawn = given if noisy is taken_logits else spread_rows(noisy)
    confidence, top1, proposal_confidence = spread(
        1.0, scores.confidence, scores.top1, scores.proposal_confidence
    )
    top2, entropy, logit = spread(0.0, scores.top2, scores.entropy, scores.logit)
    tokens = facts.token_ids.view(1, -1).repeat(2, 1)
    tokens.index_copy_(1, placed, torch.stack([scores.candidates, scores.proposals]))
    candidates, proposals = tokens.view(-1, *shape).unbind(0)
    view = BlockView(
        candidates=candidates,
        confidence=confidence,
        top1=top1,
        top2=top2,
        entropy=entropy,
        masked=masked,
        step=facts.step,
        num_left=facts.num_left,
        progress=facts.progress,
        at_edge=facts.at_edge,
        seed=facts.seed,
        logit=logit,
        proposals=proposals,
        proposal_confidence=proposal_confidence,
        logits=given,
        sampling_logits=drawn,
        shadow_confidence=shadow_confidence,
    )
    return _unscored(view) if facts.is_carried and not policy.scores_unmasked else view


def _unscored(view: BlockView) -> BlockView:
    """The view without the scores of positions that turned out to be no masks."""
    masked = view.masked

    def hide(scores: Tensor, fill: float) -> Tensor:
        where = masked if scores.dim() == masked.dim() else masked[..., None]
        return torch.where(where, scores, fill)

    def hide_given(scores: Tensor | None, fill: float) -> Tensor | None:
        return None if scores is None else hide(scores, fill)

    assert view.proposals is not None, "always given by the engine"
    return replace(
        view,
        confidence=hide(view.confidence, 1.0),
        top1=hide(view.top1, 1.0),
        top2=hide(view.top2, 0.0),
        entropy=hide(view.entropy, 0.0),
        logit=hide_given(view.logit, 0.0),
        proposals=torch.where(masked, view.proposals, view.candidates),
        proposal_confidence=hide_given(view.proposal_confidence, 1.0),
        logits=hide_given(view.logits, 0.0),
        sampling_logits=hide_given(view.sampling_logits, 0.0),
    )


def _shadow_confidence(members: list[Member], scores: Scores) -> Tensor:
    grid = scores.confidence.new_ones((len(members), len(members[0].row.block_ids)))
    for n, member in enumerate(members):
        offsets = member.row.shadow_offsets
        assert offsets is not None, "the policy needs shadow rows"
        checked = upload(offsets, grid.device)
        grid[n, checked] = scores.confidence[member.shadow_scores]
    return grid


def _allowed_logits(logits: Tensor, mask_ids: Tensor) -> Tensor:
    """A float32 copy [m, V] in which no row can take its mask token [m, 1]."""
    return logits.to(torch.float32, copy=True).scatter_(1, mask_ids, -torch.inf)


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
