"""The progress guarantee: the only place that overrules what a policy asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from starr_engine.decoding.base import BlockView, Decision
from starr_engine.decoding.transfer import upload

MAX_REVOCATIONS_PER_POSITION: Final = 4
"""On average over a block: beyond it the block's tokens stay, so that every block ends."""


MAX_HELD_STEPS: Final = 64
"""For which a policy may keep a block open that has no mask left; beyond it the block is final."""


def keep_fixed(decision: Decision, is_fixed: Sequence[NDArray[np.bool_]]) -> Decision:
    """Drop revocations and edits of tokens that came with the request.

    A policy is not told which these are. They are never scored, so it sees them at a confidence of
    1, at their shadow rows too, and has little reason to doubt them.

    Args:
        decision: Of n rows.
        is_fixed: [n] rows of [L].
    """
    if (decision.revoke is None and decision.edit is None) or not any(map(np.any, is_fixed)):
        return decision
    free = upload(~np.stack(is_fixed), decision.unmask.device)
    revoke = None if decision.revoke is None else decision.revoke & free
    edit = None if decision.edit is None else decision.edit & free
    return replace(decision, revoke=revoke, edit=edit)


def drop_vain_edits(view: BlockView, decision: Decision) -> Decision:
    """Drop edits that would put the token that stands there."""
    if decision.edit is None:
        return decision
    return replace(decision, edit=decision.edit & (decision.tokens_put(view) != view.candidates))


def bound_holding(decision: Decision, num_held: Tensor) -> Decision:
    """Let go of rows that have been held for their share of steps.

    With it a block ends after at most MAX_HELD_STEPS more steps than without holding.

    Args:
        decision: Of n rows.
        num_held: int64 [n] steps after which each row's block was held although it had no mask
            left.
    """
    if decision.hold is None:
        return decision
    return replace(decision, hold=decision.hold & (num_held < MAX_HELD_STEPS))


def bound_revocation(decision: Decision, num_revoked: Tensor) -> Decision:
    """Drop the revocations of rows that have had their share of them.

    With it a block of L positions ends after at most (1 + MAX_REVOCATIONS_PER_POSITION) * L steps
    and the L that one last decision may revoke.

    Args:
        decision: Of n rows.
        num_revoked: int64 [n] revocations in each row's block before this decision.
    """
    if decision.revoke is None:
        return decision
    limit = MAX_REVOCATIONS_PER_POSITION * decision.revoke.shape[1]
    return replace(decision, revoke=decision.revoke & (num_revoked < limit)[:, None])


def bound_steps(view: BlockView, decision: Decision, step_limit: int) -> Decision:
    """End the blocks of a policy that bounds its own steps, at the last of them."""
    is_last = view.step + 1 >= step_limit
    revoke, hold = decision.revoke, decision.hold
    return replace(
        decision,
        unmask=decision.unmask | (view.masked & is_last[:, None]),
        revoke=None if revoke is None else revoke & ~is_last[:, None],
        hold=None if hold is None else hold & ~is_last,
    )


def guarantee_progress(view: BlockView, decision: Decision) -> Decision:
    """Unmask the most confident mask, leftmost among equals, of every row that would unmask none.

    With it a block of L positions ends after at most L steps, if nothing is revoked.
    """
    stuck = ~(decision.unmask & view.masked).any(1) & view.masked.any(1)
    # A mask without a number, which logits of NaN give, still comes before what is no mask.
    score = view.confidence.nan_to_num(nan=-1.0).masked_fill(~view.masked, -2.0)
    best = first_argmax(score)
    forced = torch.zeros_like(view.masked).scatter_(1, best[:, None], stuck[:, None])
    return replace(decision, unmask=decision.unmask | forced)


def first_argmax(values: Tensor) -> Tensor:
    """Lowest index of the maximum of each row: [n, L] -> [n].

    ``torch.argmax`` leaves open which of several equal values it returns. NaN counts as lowest.
    """
    length = values.shape[1]
    clean = values.nan_to_num(nan=-torch.inf)
    index = torch.arange(length, device=values.device)
    return torch.where(clean == clean.amax(1, keepdim=True), index, length).amin(1)
