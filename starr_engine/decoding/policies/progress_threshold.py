"""Streaming-dLLM: a threshold that falls as the block fills."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from starr_engine.decoding.base import BlockView, Decision, State, StatelessPolicy
from starr_engine.decoding.policies.checks import check_unit_interval


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressThresholdPolicy(StatelessPolicy):
    """Unmask ``{i : c_i >= tau_t}`` with a threshold from the share of masks that are left.

        tau_t = threshold * (1 - slope * (1 - r_t)),    slope counts as 0 at a block's first step

    r_t is the masked share of what the step's forward sees. Here that is the block; the authors'
    query also holds the masks of the next ``window`` positions, which their suffix pruning leaves,
    so that their threshold falls more slowly.

    Source:
        Streaming-dLLM, arXiv 2601.17917, paper and code; 0.9, and 0.3 for most tasks (0.2 to 0.7).

    Raises:
        RequestError: If an argument is out of range.
    """

    threshold: float = 0.9
    """tau_0."""

    slope: float = 0.3
    """Share of the threshold that is gone when no mask is left; the authors' alpha."""

    def __post_init__(self) -> None:
        check_unit_interval(self, "threshold", upper=2.0)
        check_unit_interval(self, "slope")

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        """See the class."""
        filled = torch.where(view.step == 0, 0.0, 1.0 - view.masked.float().mean(1))
        threshold = (self.threshold * (1.0 - self.slope * filled))[:, None]
        unmask = view.masked & (view.confidence >= threshold)
        return Decision(unmask=unmask, signals={"threshold": threshold}), state
