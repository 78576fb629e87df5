"""What the policies with a fixed number of positions per step have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from starr_engine.decoding.base import BlockView, Decision, State, StatelessPolicy
from starr_engine.decoding.policies.checks import check_count
from starr_engine.decoding.policies.ranking import take_best
from starr_engine.errors import RequestError


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaPolicy(StatelessPolicy, ABC):
    """Unmask the k masks with the largest score, leftmost among equals.

    k is ``tokens_per_step``, or, with ``num_steps_per_block`` S, LLaDA's schedule: the L
    positions of a block in S steps, floor(L / S) each and one more in the first L mod S steps.
    L counts fixed tokens too, and is smaller in a short last block: a block with fixed tokens is
    done in fewer steps, and one with S > L in at most L, one at a step.

    Raises:
        RequestError: If an argument is no positive integer, or both are given.
    """

    tokens_per_step: int = 1
    num_steps_per_block: int | None = None

    def __post_init__(self) -> None:
        check_count(self, "tokens_per_step")
        if self.num_steps_per_block is not None:
            check_count(self, "num_steps_per_block")
            if self.tokens_per_step != 1:
                raise RequestError(
                    "give tokens_per_step or num_steps_per_block, not both: "
                    f"got {self.tokens_per_step} and {self.num_steps_per_block}"
                )

    @abstractmethod
    def score(self, view: BlockView) -> Tensor:
        """[n, L], larger goes first."""

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        """See the class."""
        quota = torch.full_like(view.step, self.tokens_per_step)
        if self.num_steps_per_block is not None:
            each, more = divmod(view.masked.shape[1], self.num_steps_per_block)
            quota = each + (view.step < more).to(view.step.dtype)
        return Decision(unmask=take_best(self.score(view), view.masked, quota)), state
