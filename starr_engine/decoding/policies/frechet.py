"""Fast-dLLM++: as many tokens as a bound on their joint probability allows."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from starr_engine.decoding.base import BlockView, Decision, State, StatelessPolicy
from starr_engine.decoding.policies.checks import check_unit_interval
from starr_engine.decoding.policies.ranking import best_first, by_offset, take_leading


@dataclass(frozen=True, slots=True, kw_only=True)
class FrechetPolicy(StatelessPolicy):
    """Unmask the n most confident masks for the largest n with L_n - U_n > delta.

    With the confidences c_(1) >= c_(2) >= ... of the masks,

        L_n = c_(1) + ... + c_(n) - (n - 1)     least joint probability of the n candidates
        U_n = 1 - c_(n)                         most that any other choice of the n can have

    after Frechet's inequalities, whatever hangs together. L_n - U_n never grows with n. As a
    threshold for every rank: 2 * c_(n) > delta + n - (c_(1) + ... + c_(n-1)). For equal
    confidences it is ``factor`` with factor = 1 - delta.

    As in the authors' code L_n may be negative, where the paper writes max(0, L_n); it makes no
    difference, since delta is not. Of the first token the progress guarantee takes care.

    Source:
        Fast-dLLM++, arXiv 2606.02955, paper and code; default 0.25. The authors recommend 0.25 to
        0.30 for GSM8K, 0.20 to 0.25 for HumanEval and 0.02 to 0.2 for MBPP.

    Raises:
        RequestError: If ``delta`` is outside [0, 1].
    """

    delta: float = 0.25

    def __post_init__(self) -> None:
        check_unit_interval(self, "delta")

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        """See the class."""
        order = best_first(view.confidence, view.masked)
        confidence = view.confidence.gather(1, order).double()
        number = torch.arange(1, order.shape[1] + 1, device=order.device)
        before = confidence.cumsum(1) - confidence
        line = (self.delta + number - before) / 2
        unmask = take_leading(order, confidence > line, view.masked)
        return Decision(unmask=unmask, signals={"threshold": by_offset(order, line.float())}), state
