"""LLaDA's other rule: a fixed number of positions per step, drawn evenly."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from starr_engine.decoding.base import BlockView
from starr_engine.decoding.draws import uniform
from starr_engine.decoding.policies.quota import QuotaPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomPolicy(QuotaPolicy):
    """Unmask k masks drawn evenly, whatever their confidence; k as ``QuotaPolicy`` says.

    The draw depends on the request's seed, the place and the step alone, so it is the same in
    every batch and on every device. The authors draw from torch's global generator.

    Source:
        LLaDA, arXiv 2502.09992, "random remasking", and its generate script (remasking="random").
    """

    def score(self, view: BlockView) -> Tensor:
        """Even draws."""
        return uniform(view)
