"""Saber: unmask above the average of what was taken before, take back what has lost most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import torch

from starr_engine.decoding.base import BlockView, Decision, PolicyDefaults, State
from starr_engine.decoding.policies.checks import check_count
from starr_engine.decoding.policies.ranking import take_best

_NEVER: Final = -1.0
"""In place of the confidence of a position that was not unmasked yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SaberPolicy(PolicyDefaults):
    """Adaptive acceleration and backtracking; **revocable**.

    With M the masks, c_i the confidence of a mask and the largest probability at a token, now and
    at the step before (0 at first), and theta the mean confidence with which the block's tokens
    were unmasked, revoked ones included (1 if there are none):

        S = {i in M : c_i > theta}; if |S| < n, the n best of M
        s = max(n, |S|)
        r = min(max(floor(n / 2), ceil(s / 8)), s - 1), or 0 if S leaves no mask
        unmask S, then mask again the r tokens of the block, S included, with the smallest
        c_i(t) - c_i(t-1), rightmost first among equals

    A member of S that is taken back at once stays a mask. So each step nets at least one token and
    a block of L positions ends after at most L steps.

    As the authors' code has it, the change at a token is that of its most probable token's
    probability, with the token itself visible, not of the token's own probability. Differs from
    that code in its reach: there theta and the tokens to take back run over all blocks (their
    runs have one block of 256), here over the active block, so each block begins with n.

    A fixed token, of which no score changes, may be among the r; the engine keeps it, so the step
    takes back fewer. It never counts in theta.

    State: 8 bytes a position. Scores the block's tokens at every step.

    Source:
        Saber, arXiv 2510.18165, and the authors' code; default n = 2.

    Raises:
        RequestError: If ``n`` is no positive integer.
    """

    scores_unmasked: ClassVar[bool] = True

    n: int = 2
    """Least number of masks to try per step."""

    def __post_init__(self) -> None:
        check_count(self, "n")

    def init_state(self, rows: int, block_length: int, device: torch.device) -> State:
        """Nothing scored, nothing unmasked."""
        shape = (rows, block_length)
        return {
            "last": torch.zeros(shape, device=device),
            "accepted": torch.full(shape, _NEVER, device=device),
        }

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        """See the class."""
        now = torch.where(view.masked, view.confidence, view.top1)
        known = state["accepted"] != _NEVER
        total = torch.where(known, state["accepted"], 0.0).sum(1, keepdim=True)
        theta = torch.where(known.any(1, keepdim=True), total / known.sum(1, keepdim=True), 1.0)
        above = view.masked & (now > theta)
        enough = above.sum(1, keepdim=True) >= self.n
        chosen = torch.where(enough, above, take_best(now, view.masked, self.n))

        tokens = chosen | ~view.masked
        size = above.sum(1).clamp_min(self.n)
        count = torch.ceil(size / 8).long().clamp_min(self.n // 2)
        count = torch.minimum(count, size - 1) * ~tokens.all(1)
        loss = state["last"] - now
        back = take_best(loss.flip(1), tokens.flip(1), count).flip(1)
        return (
            Decision(
                unmask=chosen & ~back,
                revoke=back & ~view.masked,
                signals={"threshold": theta, "change": -loss},
            ),
            {"last": now, "accepted": torch.where(chosen, now, state["accepted"])},
        )
