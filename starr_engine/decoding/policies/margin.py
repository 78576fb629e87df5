"""A fixed number of positions per step, those whose best token leads most first."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from starr_engine.decoding.base import BlockView
from starr_engine.decoding.policies.quota import QuotaPolicy
from starr_engine.decoding.policies.ranking import SCORES


@dataclass(frozen=True, slots=True, kw_only=True)
class MarginPolicy(QuotaPolicy):
    """Unmask the k masks with the largest p_(1) - p_(2); k as ``QuotaPolicy`` says.

    p_(1) and p_(2) are the two largest probabilities of a mask. Differs from Dream's code in that
    k follows LLaDA's schedule (``maskgit_plus`` with ``score="margin"`` follows Dream's) and masks
    compete within their block alone.

    Source:
        Dream 7B, arXiv 2508.15487, generation code, alg="topk_margin"; read there.
    """

    def score(self, view: BlockView) -> Tensor:
        """Top-1 minus top-2 probability."""
        return SCORES["margin"](view)
