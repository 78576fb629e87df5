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
from starr_engine.decoding.guarantee import bound_revocation, guarantee_progress
from starr_engine.decoding.scores import Noise, Scores, add_gumbel
from starr_engine.decoding.tracing import Stages, trace_rows
from starr_engine.trace import Decider, PositionTrace

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

    num_revoked: int
    """Revocations in this block so far."""

    progress: float
    """Share of the generated positions that are unmasked."""

    seed: int

    score_offsets: Offsets
    """[m] offsets within the block that were scored, ascending; rows lie in order in ``Scores``."""

    noise: Noise | None = None
    """What sampling added to the row's logits."""

    trace: bool = False
    """Whether the decision is to say how it came about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowDecision:
    """What changes in one row's block; offsets within the block, ascending."""

    unmask_offsets: Offsets
    unmask_ids: NDArray[np.int32]
    revoke_offsets: Offsets
    state: State
    trace: PositionTrace | None = None
    """Only for a row that asked for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFailure:
    """Why a row could not be decided; its request ends, the others go on."""

    reason: str


@dataclass(frozen=True, slots=True)
class _Member:
    """A row of a group, and where its scores begin."""

    index: int
    row: DecodingRow
    first_score: int


def decide_rows(
    rows: Sequence[DecodingRow], scores: Scores, logits: Tensor
) -> list[RowDecision | RowFailure]:
    """Decide every row by its policy, and see to it that each makes progress.

    Args:
        rows: In the order in which their scores lie in ``scores``.
        scores: Of all scored positions of all rows.
        logits: [M, V] what the scores were computed from.

    Returns:
        One decision per row, in order, on the host; or why there is none.
    """
    has_numbers = scores.top1.isfinite().cpu().numpy()
    groups: dict[tuple[RemaskingPolicy, int], list[_Member]] = defaultdict(list)
    results: dict[int, RowDecision | RowFailure] = {}
    first = 0
    for index, row in enumerate(rows):
        count = len(row.score_offsets)
        if has_numbers[first : first + count].all():
            groups[row.policy, len(row.block_ids)].append(_Member(index, row, first))
        else:
            results[index] = RowFailure(
                reason="the model's logits are not finite numbers; check the weights, or use a "
                "wider dtype"
            )
        first += count
    for (policy, _), members in groups.items():
        results.update(_decide_group(policy, members, scores, logits))
    return [results[index] for index in range(len(rows))]


def _decide_group(
    policy: RemaskingPolicy, members: list[_Member], scores: Scores, logits: Tensor
) -> dict[int, RowDecision | RowFailure]:
    """Results by index; if the group as a whole fails, each row has its own chance."""
    group = [member.row for member in members]
    try:
        view = _view(policy, members, scores, logits)
        state = {name: torch.cat([row.state[name] for row in group]) for name in group[0].state}
        decision, state = policy.decide(view, state)
        _check(view, decision)
        stages = [(Decider.POLICY, decision)]
        decision = bound_revocation(decision, [row.num_revoked for row in group])
        stages.append((Decider.ENGINE, decision))
        decision = guarantee_progress(view, decision)
        stages.append((Decider.GUARANTEE, decision))
        split = _split(view, decision, state, _traces(view, stages, group))
    except Exception as error:  # whatever a user's policy may raise
        if len(members) > 1:
            results: dict[int, RowDecision | RowFailure] = {}
            for member in members:
                results |= _decide_group(policy, [member], scores, logits)
            return results
        reason = f"{type(policy).__name__} failed: {type(error).__name__}: {error}"
        return {members[0].index: RowFailure(reason=reason)}
    return {member.index: result for member, result in zip(members, split, strict=True)}


def _view(
    policy: RemaskingPolicy, members: list[_Member], scores: Scores, logits: Tensor
) -> BlockView:
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

    def spread(values: Tensor, fill: float) -> Tensor:
        grid = torch.full((len(group) * length,), fill, dtype=values.dtype, device=device)
        grid[placed] = values[taken]
        return grid.view(len(group), length)

    def spread_rows(values: Tensor) -> Tensor:
        grid = values.new_zeros((len(group) * length, values.shape[1]))
        grid[placed] = values
        return grid.view(len(group), length, -1)

    given = drawn = None
    if policy.needs_logits:
        taken_logits = _allowed_logits(group, logits[taken])
        given = spread_rows(taken_logits)
        noisy = _with_noise(group, taken_logits)
        drawn = given if noisy is taken_logits else spread_rows(noisy)
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
        progress=torch.tensor([row.progress for row in group], device=device),
        seed=torch.tensor([row.seed for row in group], device=device),
        logits=given,
        sampling_logits=drawn,
    )


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


def _check(view: BlockView, decision: Decision) -> None:
    shape = view.masked.shape
    for name in ("unmask", "revoke"):
        chosen = getattr(decision, name)
        if chosen is not None and (chosen.dtype is not torch.bool or chosen.shape != shape):
            raise ValueError(f"{name} must be a bool tensor {tuple(shape)}")
    if (decision.unmask & ~view.masked).any():
        raise ValueError("it unmasked a position that is no mask")
    if decision.revoke is not None and (decision.revoke & view.masked).any():
        raise ValueError("it revoked a position that is a mask")
    for name, values in (decision.signals or {}).items():
        if values.shape not in (shape, (shape[0], 1)):
            raise ValueError(f"signal {name!r} must be a tensor {tuple(shape)} or of one column")


def _traces(
    view: BlockView, stages: Stages, group: list[DecodingRow]
) -> list[PositionTrace | None]:
    return trace_rows(view, stages, [row.score_offsets if row.trace else None for row in group])


def _split(
    view: BlockView, decision: Decision, state: State, traces: list[PositionTrace | None]
) -> list[RowDecision]:
    unmask = decision.unmask.cpu().numpy()
    tokens = view.candidates if decision.tokens is None else decision.tokens
    ids = tokens.cpu().numpy().astype(np.int32)
    revoke = np.zeros_like(unmask) if decision.revoke is None else decision.revoke.cpu().numpy()
    return [
        RowDecision(
            unmask_offsets=(offsets := np.flatnonzero(unmask[n])),
            unmask_ids=ids[n, offsets],
            revoke_offsets=np.flatnonzero(revoke[n]),
            state={name: values[n : n + 1] for name, values in state.items()},
            trace=traces[n],
        )
        for n in range(len(unmask))
    ]
