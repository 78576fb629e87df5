"""Static threshold: unmask whatever the model is sure of."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from starr_engine.decoding.base import BlockView, Decision, State, StatelessPolicy
from starr_engine.decoding.policies.checks import check_switch, check_unit_interval


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdPolicy(StatelessPolicy):
    """Unmask ``{i : c_i >= threshold}``.

    Differs from the authors' code, which always unmasks the best position and compares the others
    with ``<``: the same positions, the progress guarantee standing in for the first.

    Source:
        Fast-dLLM, arXiv 2505.22618, "confidence-aware parallel decoding"; default 0.9. Its code
        for Dream, and Fast-dLLM v2, arXiv 2509.26328, have ``first_alone`` on; that for LLaDA has
        not.

    Raises:
        RequestError: If an argument is out of range.
    """

    threshold: float = 0.9
    """Least confidence; above 1 gives one token per step."""

    first_alone: bool = False
    """Whether a block's first step unmasks its first mask and no other, if all in front of the
    block is final. Where the logits of a position are those of the row in front of it, a block then
    needs no row in front of it again."""

    def __post_init__(self) -> None:
        check_unit_interval(self, "threshold", upper=2.0)
        check_switch(self, "first_alone")

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        """See the class."""
        unmask = view.masked & (view.confidence >= self.threshold)
        if self.first_alone:
            first = view.masked & (view.masked.cumsum(1) == 1)
            is_first = view.step == 0
            if view.at_edge is not None:
                is_first = is_first & view.at_edge
            unmask = torch.where(is_first[:, None], first, unmask)
        line = torch.full_like(view.confidence[:, :1], self.threshold)
        return Decision(unmask=unmask, signals={"threshold": line}), state
