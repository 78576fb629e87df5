"""LLaDA's own rule: a fixed number of positions per step, the most confident first."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from starr_engine.decoding.base import BlockView
from starr_engine.decoding.policies.quota import QuotaPolicy
from starr_engine.decoding.policies.ranking import SCORES


@dataclass(frozen=True, slots=True, kw_only=True)
class LowConfidencePolicy(QuotaPolicy):
    """Unmask the k masks with the largest confidence; k as ``QuotaPolicy`` says.

    The published name says what stays masked: the low confidences.

    Source:
        LLaDA, arXiv 2502.09992, section 2.4 "low-confidence remasking", and its generate script.
    """

    def score(self, view: BlockView) -> Tensor:
        """Confidence."""
        return SCORES["confidence"](view)
