"""A feed-forward part that is a mixture of experts."""

from __future__ import annotations

from torch import Tensor, nn

from starr_engine.layers.experts import Experts
from starr_engine.layers.mlp import GatedFeedForward
from starr_engine.layers.ranks import Ranks
from starr_engine.layers.routing import GroupLimitedRouter, SoftmaxRouter


class MoEFeedForward(nn.Module):
    """A router, its experts, and a part that serves every row if there is one.

    Parameters are ``gate.weight``, those of ``experts.{i}`` and of ``shared_experts``, as in the
    checkpoints of Qwen3-MoE, DeepSeek-V3 and their descendants.

    Args:
        gate: Chooses the experts of each row.
        experts: What it chooses from.
        shared_experts: Added for every row, unweighted.
    """

    def __init__(
        self,
        gate: SoftmaxRouter | GroupLimitedRouter,
        experts: Experts,
        shared_experts: GatedFeedForward | None = None,
    ) -> None:
        super().__init__()
        self.gate = gate
        self.experts = experts
        self.shared_experts = shared_experts
        self._ranks: Ranks | None = None

    def split(self, ranks: Ranks) -> None:
        """Keep this rank's experts, and its share of the part that serves every row.

        Every rank routes all rows by itself, from the same bits.
        """
        self.experts.split(ranks)
        if self.shared_experts is not None:
            self.shared_experts.split(ranks, sums=False)
        self._ranks = ranks

    @property
    def num_idle_parameters(self) -> int:
        """Those of the experts that a row is not sent to."""
        return self.experts.num_idle_parameters(self.gate.num_chosen)

    def forward(self, rows: Tensor) -> Tensor:
        """[T, size] -> [T, size]."""
        expert_ids, weights = self.gate(rows)
        out: Tensor = self.experts(rows, expert_ids, weights)
        if self.shared_experts is not None:
            out = out + self.shared_experts(rows)
        return out if self._ranks is None else self._ranks.sum(out)
