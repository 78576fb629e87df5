"""Fast-dLLM's second rule: the more tokens at once, the surer the least sure of them must be."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from starr_engine.decoding.base import BlockView, Decision, State, StatelessPolicy
from starr_engine.decoding.policies.checks import check_not_negative
from starr_engine.decoding.policies.ranking import best_first, by_offset, take_leading


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorPolicy(StatelessPolicy):
    """Unmask the n most confident masks for the largest n with (n + 1) * (1 - c_(n)) <= factor.

    c_(1) >= c_(2) >= ... are the confidences of the masks. The left side grows with n, so the rule
    is a threshold for every rank: c_(n) >= 1 - factor / (n + 1).

    Differs from the authors' code, whose loop takes the first token that fails as well when that
    is the last mask of the block; that is an off-by-one and not part of the published rule. Of the
    first token the progress guarantee takes care.

    Source:
        Fast-dLLM, arXiv 2505.22618, "factor-based parallel decoding", and its code; default 1.
        Fast-dLLM++ (arXiv 2606.02955) compares with 0.75.

    Raises:
        RequestError: If ``factor`` is no finite number >= 0.
    """

    factor: float = 1.0
    """f; 0 unmasks only what has probability 1."""

    def __post_init__(self) -> None:
        check_not_negative(self, "factor")

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        """See the class."""
        order = best_first(view.confidence, view.masked)
        confidence = view.confidence.gather(1, order).double()
        after = torch.arange(2, order.shape[1] + 2, device=order.device)
        unmask = take_leading(order, after * (1 - confidence) <= self.factor, view.masked)
        threshold = (1 - self.factor / after).float().expand_as(order)
        return Decision(unmask=unmask, signals={"threshold": by_offset(order, threshold)}), state
