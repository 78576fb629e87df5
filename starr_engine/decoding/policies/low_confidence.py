"""LLaDA's own rule: a fixed number of positions per step, the most confident first."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from starr_engine.decoding.base import BlockView, Decision, State, StatelessPolicy
from starr_engine.decoding.policies.checks import check_count
from starr_engine.errors import RequestError


@dataclass(frozen=True, slots=True, kw_only=True)
class LowConfidencePolicy(StatelessPolicy):
    """Unmask the k masks with the largest confidence, leftmost among equals.

    k is ``tokens_per_step``, or, with ``num_steps_per_block`` S, the published schedule: the L
    positions of a block in S steps, floor(L / S) each and one more in the first L mod S steps.

    Source:
        LLaDA, arXiv 2502.09992, section 2.4 "low-confidence remasking", and its generate script.

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

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        """See the class."""
        rows, length = view.masked.shape
        quota = torch.full_like(view.step, self.tokens_per_step)
        if self.num_steps_per_block is not None:
            steps = self.num_steps_per_block
            quota = length // steps + (view.step < length % steps).to(view.step.dtype)
        score = view.confidence.nan_to_num(nan=0.0).masked_fill(~view.masked, -1.0)
        order = torch.argsort(score, dim=1, descending=True, stable=True)
        rank = torch.empty_like(order).scatter_(
            1, order, torch.arange(length, device=order.device).expand(rows, length)
        )
        return Decision(unmask=view.masked & (rank < quota[:, None])), state
