"""A fixed number of positions per step, those with the least entropy first."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from starr_engine.decoding.base import BlockView
from starr_engine.decoding.policies.quota import QuotaPolicy
from starr_engine.decoding.policies.ranking import SCORES


@dataclass(frozen=True, slots=True, kw_only=True)
class EntropyPolicy(QuotaPolicy):
    """Unmask the k masks whose distribution has the least entropy; k as ``QuotaPolicy`` says.

    Differs from Dream's code in three points: k follows LLaDA's schedule (``maskgit_plus`` with
    ``score="entropy"`` follows Dream's), masks compete within their block alone, and there is no
    1e-10 inside the logarithm.

    Source:
        Dream 7B, arXiv 2508.15487, generation code, alg="entropy"; read there.
    """

    def score(self, view: BlockView) -> Tensor:
        """Negative entropy."""
        return SCORES["entropy"](view)
