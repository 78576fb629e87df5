"""What becomes of the rows of one group: the policy decides, then the engine has its say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from starr_engine.decoding.base import BlockView, Decision, State
from starr_engine.decoding.contract import Refuse, check_decision, refuse_now
from starr_engine.decoding.exit.base import exit_early
from starr_engine.decoding.facts import BlockFacts
from starr_engine.decoding.guarantee import (
    bound_holding,
    bound_revocation,
    bound_steps,
    drop_vain_edits,
    guarantee_progress,
    keep_fixed,
)
from starr_engine.decoding.rows import DecodingRow, Member
from starr_engine.decoding.scores import Scores
from starr_engine.decoding.stacking import join
from starr_engine.decoding.tracing import trace_rows
from starr_engine.decoding.transfer import upload
from starr_engine.decoding.view import make_view
from starr_engine.trace import Decider, PositionTrace


class Doubts:
    """What only the device knows, and would be a reason to decide again, step by step.

    Policies are pure, so that a group in doubt can be decided once more, the host waiting at every
    check. Nearly no group ever is.
    """

    def __init__(self) -> None:
        self._found: list[Tensor] = []

    def refuse(self, wrong: Tensor, problem: Callable[[], str]) -> None:
        """See ``Refuse``."""
        del problem
        self._found.append(wrong.any())

    def postpone(self, needed: Tensor) -> bool:
        """Whether what is ``needed`` somewhere is left for the second time."""
        self._found.append(needed.any())
        return True

    def any(self) -> Tensor:
        """Whether there is a reason: bool, no dimension."""
        return torch.stack(self._found).any()


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupDecision:
    """What was decided for n rows, still on the device."""

    facts: BlockFacts
    view: BlockView
    decision: Decision
    state: State
    confidence: Tensor
    """[n, L] float32 probability of each token that is put."""

    traces: list[PositionTrace | None]

    def after(self) -> tuple[Tensor, Tensor, Tensor]:
        """The blocks int64 [n, L] when this is carried out, counts [3, n], and which are open."""
        facts, decision = self.facts, self.decision
        unmask, revoke, edit = decision.unmask, decision.revoke, decision.edit
        put = unmask if edit is None else unmask | edit
        ids = torch.where(put, decision.tokens_put(self.view), facts.token_ids)
        num_unmasked = unmask.sum(1)
        num_revoked = torch.zeros_like(num_unmasked)
        if revoke is not None:
            ids = torch.where(revoke, facts.mask_ids, ids)
            num_revoked = revoke.sum(1)
        is_open = (ids == facts.mask_ids).any(1)
        is_held = torch.zeros_like(is_open)
        if decision.hold is not None:
            is_held = decision.hold & ~is_open
            is_open = is_open | is_held
        more = torch.stack([num_unmasked - num_revoked, num_revoked, is_held.long()])
        return ids, facts.counts + more, is_open


def decide_group(
    members: list[Member],
    facts: BlockFacts,
    scores: Scores,
    logits: Tensor,
    doubts: Doubts | None = None,
) -> GroupDecision:
    """Decide rows of one policy, exit rule, block length and shape of state.

    Args:
        members: n rows.
        facts: Of them.
        scores: Of all rows of the step.
        logits: [M, V] what the scores were computed from.
        doubts: Takes what would make the host wait; None waits.

    Raises:
        ValueError: If the policy decided what it may not. Whatever the policy raises.
    """
    refuse: Refuse = refuse_now if doubts is None else doubts.refuse
    group = [member.row for member in members]
    policy = group[0].policy
    view = make_view(policy, members, facts, scores, logits)
    decision, state = policy.decide(view, join([row.state for row in group]))
    check_decision(policy, view, decision, refuse)
    _check_tokens(view, decision, facts, logits.shape[1], refuse)
    stages = [(Decider.POLICY, decision)]
    decision = keep_fixed(decision, [row.is_fixed for row in group])
    stages.append((Decider.ENGINE, decision))
    decision = exit_early(group[0].exit_rule, view, decision)
    stages.append((Decider.EARLY_EXIT, decision))
    if policy.step_limit is None:
        decision = bound_revocation(decision, facts.counts[1])
        decision = bound_holding(decision, facts.counts[2])
    decision = drop_vain_edits(view, _put_allowed(view, decision, facts, logits))
    stages.append((Decider.ENGINE, decision))
    if policy.step_limit is None:
        decision = guarantee_progress(view, decision)
    else:
        decision = bound_steps(view, decision, policy.step_limit)
    stages.append((Decider.GUARANTEE, decision))
    postpone = _never if doubts is None else doubts.postpone
    confidence = _put_confidence(view, decision, members, facts, scores, logits, postpone)
    decision = _spare(group, view, decision, confidence)
    stages.append((Decider.ENGINE, decision))
    offsets = [row.score_offsets if row.trace else None for row in group]
    traces = trace_rows(view, stages, offsets)
    return GroupDecision(
        facts=facts,
        view=view,
        decision=decision,
        state=state,
        confidence=confidence,
        traces=traces,
    )


def _never(needed: Tensor) -> bool:
    del needed
    return False


def _put_allowed(
    view: BlockView, decision: Decision, facts: BlockFacts, logits: Tensor
) -> Decision:
    """The candidate where a policy puts a token that the request's options forbid."""
    if decision.tokens is None:
        return decision
    put, candidates = (each.flatten()[facts.placed] for each in (decision.tokens, view.candidates))
    is_forbidden = logits[facts.taken, _tokens(put, logits)] == -torch.inf
    allowed = torch.where(is_forbidden, candidates, put)
    tokens = decision.tokens.flatten().index_copy(0, facts.placed, allowed)
    return replace(decision, tokens=tokens.view_as(decision.tokens))


def _tokens(put: Tensor, logits: Tensor) -> Tensor:
    """Of the vocabulary: what a policy leaves at positions that it does not unmask need not be."""
    return put.clamp(0, logits.shape[1] - 1)


def _check_tokens(
    view: BlockView,
    decision: Decision,
    facts: BlockFacts,
    num_tokens: int,
    refuse: Refuse,
) -> None:
    """At every edit, and every mask: others may unmask what the policy did not."""
    tokens = decision.tokens
    if tokens is None:
        return
    if tokens.dtype is not torch.int64 or tokens.shape != view.masked.shape:
        raise ValueError(f"tokens must be an int64 tensor {tuple(view.masked.shape)}")
    needed = view.masked if decision.edit is None else view.masked | decision.edit
    wrong = needed & ((tokens < 0) | (tokens >= num_tokens) | (tokens == facts.mask_ids))
    refuse(
        wrong,
        lambda: (
            "tokens must hold an id of the vocabulary, and not the mask token, at every mask and "
            f"edit; got {int(tokens[wrong][0])}"
        ),
    )


def _put_confidence(
    view: BlockView,
    decision: Decision,
    members: list[Member],
    facts: BlockFacts,
    scores: Scores,
    logits: Tensor,
    postpone: Callable[[Tensor], bool],
) -> Tensor:
    """Probability of each token that is put: [n, L].

    The view's, except where a policy puts another token than the view proposes, or the view does
    not tell because end tokens wait.
    """
    put = decision.tokens_put(view)
    confidence, proposed, chosen = view.confidence, view.candidates, decision.unmask
    waits = any(member.row.late_ids for member in members)
    # The view's own candidates, none of which has to wait: rarely is there anything to look up.
    if put is proposed and not waits and postpone(chosen & (confidence == 0)):
        return confidence
    if decision.edit is not None:
        assert view.proposals is not None
        assert view.proposal_confidence is not None
        confidence = torch.where(decision.edit, view.proposal_confidence, confidence)
        proposed = torch.where(decision.edit, view.proposals, proposed)
        chosen = chosen | decision.edit
    own = chosen & ((put != proposed) | (confidence == 0))
    logit = logits[facts.taken, _tokens(put.flatten()[facts.placed], logits)].float()
    top1, best = scores.top1[facts.taken], scores.best_logit[facts.taken]
    looked_up = confidence.flatten().index_copy(0, facts.placed, top1 * torch.exp(logit - best))
    return torch.where(own, looked_up.view_as(confidence), confidence)


def _spare(
    group: list[DecodingRow], view: BlockView, decision: Decision, confidence: Tensor
) -> Decision:
    """The decision without what would complete a bad word."""
    if all(row.guard is None for row in group):
        return decision
    unmask, revoke, edit = (
        _on_host(chosen, view).copy()
        for chosen in (decision.unmask, decision.revoke, decision.edit)
    )
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
        unmask=upload(unmask, device),
        edit=None if decision.edit is None else upload(edit, device),
    )


def _on_host(chosen: Tensor | None, view: BlockView) -> NDArray[np.bool_]:
    """As an array [n, L]; nothing is chosen where the policy said nothing."""
    if chosen is None:
        return np.zeros(view.masked.shape, np.bool_)
    array: NDArray[np.bool_] = chosen.cpu().numpy()
    return array
