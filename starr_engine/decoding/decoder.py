"""Scores to decisions for all rows of a step: rows of equal policies are decided together."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from starr_engine.decoding.base import BlockView, Decision, RemaskingPolicy, State, state_shapes
from starr_engine.decoding.contract import check_decision
from starr_engine.decoding.exit.base import ExitRule, exit_early
from starr_engine.decoding.guarantee import (
    bound_holding,
    bound_revocation,
    bound_steps,
    drop_vain_edits,
    guarantee_progress,
    keep_fixed,
)
from starr_engine.decoding.rows import DecodingRow, Member, RowDecision, RowFailure
from starr_engine.decoding.scores import Scores
from starr_engine.decoding.tracing import trace_rows
from starr_engine.decoding.view import make_view
from starr_engine.trace import Decider, PositionTrace

_GroupKey = tuple[RemaskingPolicy, ExitRule | None, int, tuple[object, ...]]
"""Policy, exit rule, block length, shapes of the state: rows of one key are decided together."""


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
    groups: dict[_GroupKey, list[Member]] = defaultdict(list)
    results: dict[int, RowDecision | RowFailure] = {}
    first, first_shadow = 0, sum(len(row.score_offsets) for row in rows)
    for index, row in enumerate(rows):
        count = len(row.score_offsets)
        shadows = slice(first_shadow, first_shadow + row.num_shadows)
        first_shadow = shadows.stop
        if has_numbers[first : first + count].all() and has_numbers[shadows].all():
            groups[_group_key(row)].append(Member(index, row, first, shadows))
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
    members: list[Member], scores: Scores, logits: Tensor
) -> dict[int, RowDecision | RowFailure]:
    """Results by index; if the group as a whole fails, each row has its own chance."""
    group = [member.row for member in members]
    policy = group[0].policy
    try:
        view = make_view(policy, members, scores, logits)
        state = {name: torch.cat([row.state[name] for row in group]) for name in group[0].state}
        decision, state = policy.decide(view, state)
        check_decision(policy, view, decision)
        _check_tokens(view, decision, group, logits.shape[1])
        stages = [(Decider.POLICY, decision)]
        decision = keep_fixed(decision, [row.is_fixed for row in group])
        stages.append((Decider.ENGINE, decision))
        decision = exit_early(group[0].exit_rule, view, decision)
        stages.append((Decider.EARLY_EXIT, decision))
        if policy.step_limit is None:
            decision = bound_revocation(decision, [row.num_revoked for row in group])
            decision = bound_holding(decision, [row.num_held for row in group])
        decision = drop_vain_edits(view, _put_allowed(view, decision, members, logits))
        stages.append((Decider.ENGINE, decision))
        if policy.step_limit is None:
            decision = guarantee_progress(view, decision)
        else:
            decision = bound_steps(view, decision, policy.step_limit)
        stages.append((Decider.GUARANTEE, decision))
        confidence = _put_confidence(view, decision, members, logits)
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


def _put_allowed(
    view: BlockView, decision: Decision, members: list[Member], logits: Tensor
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
    """At every edit, and every mask: others may unmask what the policy did not."""
    tokens = decision.tokens
    if tokens is None:
        return
    if tokens.dtype is not torch.int64 or tokens.shape != view.masked.shape:
        raise ValueError(f"tokens must be an int64 tensor {tuple(view.masked.shape)}")
    mask = torch.tensor([[row.mask_token_id] for row in group], device=tokens.device)
    needed = view.masked if decision.edit is None else view.masked | decision.edit
    wrong = needed & ((tokens < 0) | (tokens >= num_tokens) | (tokens == mask))
    if wrong.any():
        raise ValueError(
            "tokens must hold an id of the vocabulary, and not the mask token, at every mask and "
            f"edit; got {int(tokens[wrong][0])}"
        )


def _put_confidence(
    view: BlockView, decision: Decision, members: list[Member], logits: Tensor
) -> Tensor:
    """Probability of each token that is put: [n, L].

    The view's, except where a policy puts another token than the view proposes, or the view does
    not tell because end tokens wait.
    """
    put = decision.tokens_put(view)
    confidence, proposed, chosen = view.confidence.clone(), view.candidates, decision.unmask
    if decision.edit is not None:
        assert view.proposals is not None
        assert view.proposal_confidence is not None
        confidence = torch.where(decision.edit, view.proposal_confidence, confidence)
        proposed = torch.where(decision.edit, view.proposals, proposed)
        chosen = chosen | decision.edit
    own = chosen & ((put != proposed) | (confidence == 0))
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
    unmask, revoke, edit = (_on_host(chosen, view).copy() for chosen in _changes(decision))
    ids = decision.tokens_put(view).cpu().numpy().astype(np.int32)
    chances = confidence.cpu().numpy()
    for n, row in enumerate(group):
        if row.guard is None:
            continue
        chosen, revoked = np.flatnonzero(unmask[n]), np.flatnonzero(revoke[n])
        unmask[n, chosen] = row.guard.spare(revoked, chosen, ids[n, chosen], chances[n, chosen])
        chosen, edited = np.flatnonzero(unmask[n]), np.flatnonzero(edit[n])
        edit[n, edited] = row.guard.keep_edits(
            revoked, chosen, ids[n, chosen], edited, ids[n, edited]
        )
    device = decision.unmask.device
    return replace(
        decision,
        unmask=torch.from_numpy(unmask).to(device),
        edit=None if decision.edit is None else torch.from_numpy(edit).to(device),
    )


def _changes(decision: Decision) -> tuple[Tensor, Tensor | None, Tensor | None]:
    return decision.unmask, decision.revoke, decision.edit


def _on_host(chosen: Tensor | None, view: BlockView) -> NDArray[np.bool_]:
    """As an array [n, L]; nothing is chosen where the policy said nothing."""
    if chosen is None:
        return np.zeros(view.masked.shape, np.bool_)
    array: NDArray[np.bool_] = chosen.cpu().numpy()
    return array


def _offsets(chosen: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Of each row, where it is true."""
    rows, offsets = chosen.nonzero()
    bounds = np.searchsorted(rows, np.arange(len(chosen) + 1)).tolist()
    return [offsets[start:stop] for start, stop in itertools.pairwise(bounds)]


def _split(
    view: BlockView,
    decision: Decision,
    state: State,
    confidence: Tensor,
    traces: list[PositionTrace | None],
) -> list[RowDecision]:
    unmask, revoke, edit = (_on_host(chosen, view) for chosen in _changes(decision))
    ids = decision.tokens_put(view).cpu().numpy().astype(np.int32)
    chances = confidence.cpu().numpy()
    hold = [False] * len(unmask) if decision.hold is None else decision.hold.tolist()
    unmasked, revoked, every_edited = map(_offsets, (unmask, revoke, edit))
    return [
        RowDecision(
            unmask_offsets=(offsets := unmasked[n]),
            unmask_ids=ids[n, offsets],
            unmask_confidence=chances[n, offsets],
            revoke_offsets=revoked[n],
            edit_offsets=(edited := every_edited[n]),
            edit_ids=ids[n, edited],
            edit_confidence=chances[n, edited],
            hold=hold[n],
            state={name: values[n : n + 1] for name, values in state.items()},
            trace=traces[n],
        )
        for n in range(len(unmask))
    ]
