"""Hierarchy: one token from every run of masks, so that each step splits the gaps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from starr_engine.decoding.base import BlockView, Decision, EngineBounded, State
from starr_engine.decoding.policies.checks import check_unit_interval
from starr_engine.decoding.policies.ranking import take_best
from starr_engine.errors import RequestError


@dataclass(frozen=True, slots=True, kw_only=True)
class HierarchyPolicy(EngineBounded):
    """Unmask the best of every run of masks if it is not too low, and whatever is sure.

    A mask is unmasked if c_i > ``threshold``, or if it is the most confident of its maximal run
    of consecutive masks (within the block) and c_i > ``low``. The authors also always take the most
    confident mask; that is the progress guarantee here. Where several masks of a run share the
    largest confidence their code takes all of them, this one the leftmost.

    With ``revoke_below`` a token of the block is masked again when its recomputed probability
    falls below the value, and at least one mask more than that is unmasked, by confidence. Which
    tokens wait when there are too few masks for that is not published; here the least probable
    |M| - 1 are masked again, so that every step leaves fewer masks than it found.

    Source:
        Hierarchical decoding of Hierarchy-dLLM as its authors ship it in dInfer; read there, with
        0.92 and 0.62 from its configurations (the function's own default of ``low`` is 0.4). The
        revoking variant with 0.4 is known from a summary of that code alone.

    Raises:
        RequestError: If an argument is out of range, or ``low`` exceeds ``threshold``.
    """

    needs_logits: ClassVar[bool] = False
    needs_shadow: ClassVar[bool] = False

    threshold: float = 0.92
    low: float = 0.62

    revoke_below: float | None = None
    """Recomputed probability below which a token is masked again; None never, published 0.4."""

    def __post_init__(self) -> None:
        check_unit_interval(self, "threshold", "low", upper=2.0)
        if self.revoke_below is not None:
            check_unit_interval(self, "revoke_below")
        if self.low > self.threshold:
            raise RequestError(f"low must not exceed threshold: {self.low} > {self.threshold}")

    @property
    def scores_unmasked(self) -> bool:
        """Only revocation looks at unmasked tokens again."""
        return self.revoke_below is not None

    def init_state(self, rows: int, block_length: int, device: torch.device) -> State:
        """Stateless."""
        return {}

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        """See the class."""
        line = torch.where(best_of_runs(view), self.low, self.threshold)
        unmask = view.masked & (view.confidence > line)
        signals = {"threshold": line}
        if self.revoke_below is None:
            return Decision(unmask=unmask, signals=signals), state
        doubtful = ~view.masked & (view.confidence < self.revoke_below)
        room = (view.masked.sum(1) - 1).clamp_min(0)
        revoke = take_best(-view.confidence, doubtful, room)
        makes_up = take_best(view.confidence, view.masked, revoke.sum(1) + 1)
        unmask = torch.where(revoke.any(1, keepdim=True), unmask | makes_up, unmask)
        return Decision(unmask=unmask, revoke=revoke, signals=signals), state


def best_of_runs(view: BlockView) -> Tensor:
    """The most confident mask of every maximal run of masks, leftmost among equals: bool [n, L]."""
    rows, length = view.masked.shape
    before = torch.cat([torch.zeros_like(view.masked[:, :1]), view.masked[:, :-1]], 1)
    run = (view.masked & ~before).long().cumsum(1)  # from 1; what is no mask goes to run 0
    run = torch.where(view.masked, run, 0)
    highest = view.confidence.new_full((rows, length + 1), -1.0)
    highest = highest.scatter_reduce(1, run, view.confidence, "amax")
    index = torch.arange(length, device=run.device).expand_as(run)
    is_highest = view.masked & (view.confidence == highest.gather(1, run))
    first = run.new_full((rows, length + 1), length)
    first = first.scatter_reduce(1, run, torch.where(is_highest, index, length), "amin")
    return view.masked & (index == first.gather(1, run))
