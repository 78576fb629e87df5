"""Random decoding for tests of policies: steps of small blocks, and picking rows out of them.

Letters: n rows, L block length, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from starr_engine.decoding.base import BlockView, Decision, RemaskingPolicy, State
from starr_engine.decoding.guarantee import (
    MAX_HELD_STEPS,
    MAX_REVOCATIONS_PER_POSITION,
    bound_holding,
    bound_revocation,
    bound_steps,
    drop_vain_edits,
    first_argmax,
    guarantee_progress,
)

ROWS: Final = 7
LENGTH: Final = 9
VOCABULARY: Final = 6
MASK_TOKEN_ID: Final = VOCABULARY - 1

# See bound_revocation: the bound, and the one decision that may go beyond it; and bound_holding.
MAX_STEPS: Final = (2 + MAX_REVOCATIONS_PER_POSITION) * LENGTH + MAX_HELD_STEPS
_LEVELS: Final = 8
_TOKENS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """One step of the rows that still have masks, or are held."""

    rows: Tensor
    """int64 [n]: which of the ``ROWS`` blocks they are."""

    step: int
    view: BlockView
    state: State


def draw_view(
    policy: RemaskingPolicy, tokens: Tensor, rows: Tensor, step: int, generator: torch.Generator
) -> BlockView:
    """A random step over blocks whose ``tokens`` int64 [n, L] are -1 at masks.

    Confidences come in tenths, so that they tie, or from logits of few values where the policy
    asks for these; nothing but masks is scored unless asked for.
    """
    shape = tokens.shape
    masked = tokens < 0
    scored = torch.ones_like(masked) if policy.scores_unmasked else masked

    def tenths() -> Tensor:
        return torch.randint(0, 11, shape, generator=generator) / 10

    logits = None
    confidence = torch.where(scored, tenths(), 1.0)
    proposed = torch.randint(0, _TOKENS, shape, generator=generator)
    top1 = confidence
    top2 = torch.where(scored, torch.minimum(1 - confidence, confidence), 0.0)
    entropy = torch.where(scored, 2 * tenths(), 0.0)
    logit = torch.where(scored, 10 * tenths(), 0.0)
    proposals = torch.where(scored, proposed, tokens)
    # A token that is proposed where it stands has one probability, whichever way it is asked for.
    proposal_confidence = torch.where(proposals == tokens, confidence, top1)
    if policy.needs_logits:
        levels = torch.randint(0, _LEVELS, (*shape, VOCABULARY), generator=generator).float()
        logits = torch.where(scored[..., None], levels, 0.0)
        logits[..., MASK_TOKEN_ID] = -torch.inf
        probabilities = logits.softmax(-1)
        best = probabilities.topk(2).values
        proposed = first_argmax(logits.flatten(0, 1)).view(shape)
        present = torch.where(masked, proposed, tokens)
        taken = probabilities.gather(2, present[..., None])[..., 0]
        confidence = torch.where(scored, taken, 1.0)
        logit = torch.where(scored, logits.gather(2, present[..., None])[..., 0], 0.0)
        top1 = torch.where(scored, best[..., 0], 1.0)
        top2 = torch.where(scored, best[..., 1], 0.0)
        entropy = torch.where(scored, -torch.xlogy(probabilities, probabilities).sum(-1), 0.0)
        proposals = torch.where(scored, proposed, tokens)
        proposal_confidence = top1
    return BlockView(
        candidates=torch.where(masked, proposed, tokens),
        confidence=confidence,
        top1=top1,
        top2=top2,
        entropy=entropy,
        masked=masked,
        step=torch.full((len(rows),), step),
        num_left=rows * 2 + 1,
        progress=(~masked).float().mean(1) / 2,
        seed=rows * 2**61,
        logit=logit,
        proposals=proposals,
        proposal_confidence=proposal_confidence,
        logits=logits,
        sampling_logits=logits,
        shadow_confidence=torch.where(masked, 1.0, tenths()) if policy.needs_shadow else None,
    )


def play(policy: RemaskingPolicy, seed: int) -> Iterator[tuple[Shot, Decision, State]]:
    """Decode ``ROWS`` random blocks to their end as the engine would, each leaving when done.

    Yields:
        Every step, what the policy decided at it, and the state after it.

    Raises:
        AssertionError: If a block is not done after ``MAX_STEPS``.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.arange(ROWS)
    tokens = torch.full((ROWS, LENGTH), -1)
    state = policy.init_state(ROWS, LENGTH, torch.device("cpu"))
    num_revoked = torch.zeros(ROWS, dtype=torch.int64)
    num_held = torch.zeros_like(num_revoked)
    for step in range(MAX_STEPS):
        view = draw_view(policy, tokens, rows, step, generator)
        every = torch.arange(len(rows))
        # A copy, so that a policy that changes what it is given shows when it is asked again.
        decision, after = policy.decide(pick(view, every), pick_state(state, every))
        yield Shot(rows=rows, step=step, view=view, state=state), decision, after
        full = _bounded(policy, view, decision, num_revoked, num_held)
        put = full.tokens_put(view)
        tokens = torch.where(full.unmask, put, tokens)
        if full.edit is not None:
            tokens = torch.where(full.edit, put, tokens)
        if full.revoke is not None:
            tokens = torch.where(full.revoke, -1, tokens)
            num_revoked += full.revoke.sum(1)
        is_left = (tokens < 0).any(1)
        if full.hold is not None:
            num_held += full.hold & ~is_left
            is_left |= full.hold
        left = is_left.nonzero()[:, 0]
        if not len(left):
            return
        rows, tokens = rows[left], tokens[left]
        num_revoked, num_held = num_revoked[left], num_held[left]
        state = pick_state(after, left)
    raise AssertionError(
        f"progress: row {rows[0]} is not done after {MAX_STEPS} steps (seed {seed})"
    )


def _bounded(
    policy: RemaskingPolicy,
    view: BlockView,
    decision: Decision,
    num_revoked: Tensor,
    num_held: Tensor,
) -> Decision:
    if policy.step_limit is not None:
        return bound_steps(view, drop_vain_edits(view, decision), policy.step_limit)
    decision = bound_holding(bound_revocation(decision, num_revoked), num_held)
    return guarantee_progress(view, drop_vain_edits(view, decision))


def pick(view: BlockView, rows: Tensor) -> BlockView:
    """``rows`` of a view, in that order."""
    return _each_field([view], lambda fields: fields[0][rows])


def pick_state(state: State, rows: Tensor) -> State:
    """``rows`` of a state, in that order."""
    return {name: values[rows] for name, values in state.items()}


def join(views: list[BlockView]) -> BlockView:
    """The rows of several views as one."""
    return _each_field(views, torch.cat)


def _each_field(views: list[BlockView], change: Callable[[list[Tensor]], Tensor]) -> BlockView:
    fields: dict[str, Any] = {}
    for name in BlockView.__slots__:
        values = [getattr(view, name) for view in views]
        fields[name] = None if values[0] is None else change(values)
    return BlockView(**fields)
