"""Scores to decisions for all rows of a step: rows of equal policies are decided together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from starr_engine.decoding.bad_words import BadWordGuard
from starr_engine.decoding.base import BlockView, Decision, RemaskingPolicy, State, state_shapes
from starr_engine.decoding.eos_last import flatten, late_rows, postpone
from starr_engine.decoding.exit.base import ExitRule, exit_early
from starr_engine.decoding.guarantee import bound_revocation, guarantee_progress, keep_fixed
from starr_engine.decoding.scores import Noise, Scores, add_gumbel
from starr_engine.decoding.tracing import trace_rows
from starr_engine.outputs import TokenLogprob
from starr_engine.trace import Decider, PositionTrace

Offsets = NDArray[np.int64]
_GroupKey = tuple[RemaskingPolicy, ExitRule | None, int, tuple[object, ...]]
"""Policy, exit rule, block length, shapes of the state: rows of one key are decided together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodingRow:
    """The active block of one request, as far as decoding knows it."""

    policy: RemaskingPolicy

    state: State
    """Of this row alone, first dimension 1; as the last step left it."""

    block_ids: NDArray[np.int32]
    """[L] the block's tokens, masks included."""

    is_fixed: NDArray[np.bool_]
    """[L] tokens that were given with the request: no policy may revoke them."""

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

    shadow_offsets: Offsets | None = None
    """[s] offsets within the block whose shadow rows were scored, ascending; these scores lie in
    order behind all others. None if the policy does not need them."""

    noise: Noise | None = None
    """What sampling added to the row's logits."""

    exit_rule: ExitRule | None = None
    """When to fill the block at once; None never."""

    late_ids: tuple[int, ...] = ()
    """Candidates that wait for all others; see :mod:`starr_engine.decoding.eos_last`."""

    has_rules: bool = False
    """Whether options of the request changed the logits, and may have forbidden every token."""

    guard: BadWordGuard | None = None
    """What the positions of one step must not complete together."""

    trace: bool = False
    """Whether the decision is to say how it came about."""

    @property
    def num_shadows(self) -> int:
        """Shadow rows scored."""
        return 0 if self.shadow_offsets is None else len(self.shadow_offsets)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowDecision:
    """What changes in one row's block; offsets within the block, ascending."""

    unmask_offsets: Offsets
    unmask_ids: NDArray[np.int32]
    unmask_confidence: NDArray[np.float32]
    """Softmax probability of each of ``unmask_ids``, without noise."""

    revoke_offsets: Offsets
    state: State
    trace: PositionTrace | None = None
    """Only for a row that asked for it."""

    logprobs: tuple[TokenLogprob, ...] = ()
    """Of ``unmask_ids``, if the request asks for them."""


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
    shadow_scores: slice


def decide_rows(
    rows: Sequence[DecodingRow], scores: Scores, logits: Tensor
) -> list[RowDecision | RowFailure]:
    """Decide every row by its policy, and see to it that each makes progress.

    Args:
        rows: In the order in which their scores lie in ``scores``.
        scores: Of all scored positions of all rows, and then of all their shadow rows.
        logits: [M, V] what the scores were computed from.

    Returns:
        One decision per row, in order, on the host; or why there is none.
    """
    has_numbers = scores.top1.isfinite().cpu().numpy()
    groups: dict[_GroupKey, list[_Member]] = defaultdict(list)
    results: dict[int, RowDecision | RowFailure] = {}
    first, first_shadow = 0, sum(len(row.score_offsets) for row in rows)
    for index, row in enumerate(rows):
        count = len(row.score_offsets)
        shadows = slice(first_shadow, first_shadow + row.num_shadows)
        first_shadow = shadows.stop
        if has_numbers[first : first + count].all() and has_numbers[shadows].all():
            groups[_group_key(row)].append(_Member(index, row, first, shadows))
        else:
            results[index] = RowFailure(reason=_why_no_numbers(row, logits[first : first + count]))
        first += count
    for members in groups.values():
        results.update(_decide_group(members, scores, logits))
    return [results[index] for index in range(len(rows))]


def _group_key(row: DecodingRow) -> _GroupKey:
    # A state of vocabulary size is empty before the block's first step: such rows go together.
    return row.policy, row.exit_rule, len(row.block_ids), state_shapes(row.state)


def _why_no_numbers(row: DecodingRow, logits: Tensor) -> str:
    others = torch.arange(logits.shape[1], device=logits.device) != row.mask_token_id
    forbidden = (logits[:, others] == -torch.inf).all(1).cpu().numpy()
    if row.has_rules and forbidden.any():
        offset = row.score_offsets[forbidden][0]
        return (
            f"the request's options forbid every token at position {offset} of the block behind "
            f"{row.num_left} tokens; relax allowed_token_ids, bad_words, min_tokens or suppress_eos"
        )
    return "the model's logits are not finite numbers; check the weights, or use a wider dtype"


def _decide_group(
    members: list[_Member], scores: Scores, logits: Tensor
) -> dict[int, RowDecision | RowFailure]:
    """Results by index; if the group as a whole fails, each row has its own chance."""
    group = [member.row for member in members]
    policy = group[0].policy
    try:
        view = _view(policy, members, scores, logits)
        state = {name: torch.cat([row.state[name] for row in group]) for name in group[0].state}
        decision, state = policy.decide(view, state)
        _check(view, decision)
        _check_tokens(view, decision, group, logits.shape[1])
        stages = [(Decider.POLICY, decision)]
        decision = keep_fixed(decision, [row.is_fixed for row in group])
        stages.append((Decider.ENGINE, decision))
        decision = exit_early(group[0].exit_rule, view, decision)
        stages.append((Decider.EARLY_EXIT, decision))
        decision = bound_revocation(decision, [row.num_revoked for row in group])
        stages.append((Decider.ENGINE, decision))
        decision = guarantee_progress(view, _put_allowed(view, decision, members, logits))
        stages.append((Decider.GUARANTEE, decision))
        confidence = _unmask_confidence(view, decision, members, logits)
        decision = _spare(group, view, decision, confidence)
        stages.append((Decider.ENGINE, decision))
        offsets = [row.score_offsets if row.trace else None for row in group]
        traces = trace_rows(view, stages, offsets)
        split = _split(view, decision, state, confidence, traces)
    except Exception as error:  # whatever a user's policy may raise
        if len(members) > 1:
            results: dict[int, RowDecision | RowFailure] = {}
            for member in members:
                results |= _decide_group([member], scores, logits)
            return results
        rule = group[0].exit_rule
        names = type(policy).__name__ + ("" if rule is None else f" with {type(rule).__name__}")
        reason = f"{names} failed: {type(error).__name__}: {error}"
        return {members[0].index: RowFailure(reason=reason)}
    return {member.index: result for member, result in zip(members, split, strict=True)}


def _view(
    policy: RemaskingPolicy, members: list[_Member], scores: Scores, logits: Tensor
) -> BlockView:
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
    late = late_rows(
        scores.candidates, masked.view(-1)[placed], [row.late_ids for row in group], counts
    )
    if late is not None:
        scores = postpone(scores, late, logits.shape[1])

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
    candidates[placed] = scores.candidates
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
        seed=torch.tensor([row.seed for row in group], device=device),
        logit=spread(scores.logit, 0.0),
        logits=given,
        sampling_logits=drawn,
        shadow_confidence=shadow_confidence,
    )


def _shadow_confidence(members: list[_Member], scores: Scores) -> Tensor:
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


def _put_allowed(
    view: BlockView, decision: Decision, members: list[_Member], logits: Tensor
) -> Decision:
    """The candidate where a policy puts a token that the request's options forbid."""
    if decision.tokens is None:
        return decision
    tokens = decision.tokens.clone()
    for n, member in enumerate(members):
        count = len(member.row.score_offsets)
        offsets = torch.from_numpy(member.row.score_offsets).to(tokens.device)
        rows = logits[member.first_score : member.first_score + count]
        put = tokens[n, offsets]
        # What a policy leaves at positions that it does not unmask need not be a token.
        own = put.clamp(0, rows.shape[1] - 1)
        is_forbidden = rows.gather(1, own[:, None])[:, 0] == -torch.inf
        tokens[n, offsets] = torch.where(is_forbidden, view.candidates[n, offsets], put)
    return replace(decision, tokens=tokens)


def _check_tokens(
    view: BlockView, decision: Decision, group: list[DecodingRow], num_tokens: int
) -> None:
    """At every mask: early exit and the progress guarantee may unmask what the policy did not."""
    tokens = decision.tokens
    if tokens is None:
        return
    if tokens.dtype is not torch.int64 or tokens.shape != view.masked.shape:
        raise ValueError(f"tokens must be an int64 tensor {tuple(view.masked.shape)}")
    mask = torch.tensor([[row.mask_token_id] for row in group], device=tokens.device)
    wrong = view.masked & ((tokens < 0) | (tokens >= num_tokens) | (tokens == mask))
    if wrong.any():
        raise ValueError(
            "tokens must hold an id of the vocabulary, and not the mask token, at every mask; got "
            f"{int(tokens[wrong][0])}"
        )


def _unmask_confidence(
    view: BlockView, decision: Decision, members: list[_Member], logits: Tensor
) -> Tensor:
    """Probability of each token that is put: [n, L].

    The view's confidence, except where a policy puts another token, or the view does not tell
    because end tokens wait.
    """
    put = view.candidates if decision.tokens is None else decision.tokens
    own = decision.unmask & ((put != view.candidates) | (view.confidence == 0))
    confidence = view.confidence.clone()
    for n, offset in own.nonzero().tolist():
        row = members[n].row
        scored = members[n].first_score + int(np.searchsorted(row.score_offsets, offset))
        allowed = logits[scored].to(torch.float32, copy=True)
        allowed[row.mask_token_id] = -torch.inf
        confidence[n, offset] = allowed.softmax(0)[put[n, offset]]
    return confidence


def _spare(
    group: list[DecodingRow], view: BlockView, decision: Decision, confidence: Tensor
) -> Decision:
    """The decision without what would complete a bad word."""
    if all(row.guard is None for row in group):
        return decision
    unmask = decision.unmask.cpu().numpy().copy()
    tokens = view.candidates if decision.tokens is None else decision.tokens
    ids = tokens.cpu().numpy().astype(np.int32)
    chances = confidence.cpu().numpy()
    revoke = np.zeros_like(unmask) if decision.revoke is None else decision.revoke.cpu().numpy()
    for n, row in enumerate(group):
        if row.guard is not None:
            chosen, revoked = np.flatnonzero(unmask[n]), np.flatnonzero(revoke[n])
            unmask[n, chosen] = row.guard.spare(revoked, chosen, ids[n, chosen], chances[n, chosen])
    return replace(decision, unmask=torch.from_numpy(unmask).to(decision.unmask.device))


def _split(
    view: BlockView,
    decision: Decision,
    state: State,
    confidence: Tensor,
    traces: list[PositionTrace | None],
) -> list[RowDecision]:
    unmask = decision.unmask.cpu().numpy()
    tokens = view.candidates if decision.tokens is None else decision.tokens
    ids = tokens.cpu().numpy().astype(np.int32)
    chances = confidence.cpu().numpy()
    revoke = np.zeros_like(unmask) if decision.revoke is None else decision.revoke.cpu().numpy()
    return [
        RowDecision(
            unmask_offsets=(offsets := np.flatnonzero(unmask[n])),
            unmask_ids=ids[n, offsets],
            unmask_confidence=chances[n, offsets],
            revoke_offsets=np.flatnonzero(revoke[n]),
            state={name: values[n : n + 1] for name, values in state.items()},
            trace=traces[n],
        )
        for n in range(len(unmask))
    ]
