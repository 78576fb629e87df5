"""Which experts a row passes through, and how much each of them counts.

Letters: T rows, k experts of a row, E experts, H row size.
"""

from __future__ import annotations

from typing import ClassVar, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from starr_engine.layers.linear import Linear
from starr_engine.layers.norm import WideRMSNorm

_TINY: Final = 1e-20
"""Added to a sum of sigmoid scores before it divides, as in the published files."""

_GROUP_SCORES: Final = 2
"""Best experts of a group that speak for it."""


class SoftmaxRouter(nn.Module):
    """The most probable experts under a softmax over all.

    Logits have the dtype of the rows, as in the published files; probabilities and weights are
    float32 (the published files round the weights to the dtype of the rows).

    Args:
        size: H.
        num_experts: E.
        num_chosen: k.
        renormalise: Whether the weights of a row are scaled to sum to one.

    Source:
        ``Qwen3MoeTopKRouter`` and ``OlmoeTopKRouter`` of transformers.
    """

    def __init__(self, size: int, num_experts: int, num_chosen: int, *, renormalise: bool) -> None:
        super().__init__()
        self.num_chosen = num_chosen
        self.renormalise = renormalise
        self.weight = nn.Parameter(torch.empty((num_experts, size)))

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Rows [T, H] -> ids [T, k] int64, the likeliest first, and weights [T, k] float32."""
        logits = functional.linear(rows, self.weight)
        weights, expert_ids = logits.softmax(-1, dtype=torch.float32).topk(self.num_chosen)
        if self.renormalise:
            weights = weights / weights.sum(-1, keepdim=True)
        return expert_ids, weights


class GroupLimitedRouter(nn.Module):
    """The experts of the highest sigmoid score, of the best groups only; all in float32.

    A learnt bias takes part in the choice, but not in the weights. A group counts as much as its
    two best experts together.

    Args:
        size: H.
        num_experts: E.
        num_chosen: k.
        num_groups: Groups of equal size and neighbouring experts.
        num_groups_chosen: Groups from which a row's experts come.
        renormalise: Whether the weights of a row are scaled to sum to one, before ``scale``.
        scale: Factor of all weights.

    Source:
        DeepSeek-V3, arXiv 2412.19437, section 2.1.2; ``DeepseekV3TopkRouter`` of transformers.
    """

    float32_parameters: ClassVar[frozenset[str]] = frozenset({"expert_bias"})
    """Loaded as float32 whatever the dtype of the others: it decides between close scores."""

    def __init__(
        self,
        size: int,
        num_experts: int,
        num_chosen: int,
        *,
        num_groups: int = 1,
        num_groups_chosen: int = 1,
        renormalise: bool,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.num_chosen = num_chosen
        self.num_groups = num_groups
        self.num_groups_chosen = num_groups_chosen
        self.renormalise = renormalise
        self.scale = scale
        self.weight = nn.Parameter(torch.empty((num_experts, size)))
        self.expert_bias = nn.Parameter(torch.empty(num_experts))

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Rows [T, H] -> ids [T, k] int64, the best first, and weights [T, k] float32."""
        scores = functional.linear(rows.float(), self.weight.float()).sigmoid()
        ranks = self._of_best_groups(scores + self.expert_bias.float())
        expert_ids = ranks.topk(self.num_chosen).indices
        weights = scores.gather(-1, expert_ids)
        if self.renormalise:
            weights = weights / (weights.sum(-1, keepdim=True) + _TINY)
        return expert_ids, weights * self.scale

    def _of_best_groups(self, ranks: Tensor) -> Tensor:
        """Ranks [T, E] with minus infinity outside the best groups."""
        if self.num_groups_chosen == self.num_groups:
            return ranks
        grouped = ranks.view(len(ranks), self.num_groups, ranks.shape[1] // self.num_groups)
        group_ranks = grouped.topk(_GROUP_SCORES).values.sum(-1)
        best = group_ranks.topk(self.num_groups_chosen).indices
        is_best = torch.zeros_like(group_ranks, dtype=torch.bool).scatter_(-1, best, value=True)
        return grouped.masked_fill(~is_best.unsqueeze(-1), -torch.inf).flatten(-2)


class ScaledRouter(nn.Module):
    """A softmax over scores of the normalised and scaled row, with a learnt factor per expert.

    The weights of a row's experts sum to one before that factor. Probabilities and weights are
    float32.

    Args:
        size: H.
        num_experts: E.
        num_chosen: k.
        eps: Of the norm.

    Source:
        ``DiffusionGemmaTextRouter`` of transformers, as in Gemma 4.
    """

    def __init__(self, size: int, num_experts: int, num_chosen: int, eps: float) -> None:
        super().__init__()
        self.num_chosen = num_chosen
        self.norm = WideRMSNorm(size, eps, scale=False)
        self.scale = nn.Parameter(torch.empty(size))
        self.proj = Linear(size, num_experts, bias=False)
        self.per_expert_scale = nn.Parameter(torch.empty(num_experts))

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Rows [T, H] -> ids [T, k] int64, the likeliest first, and weights [T, k] float32."""
        scaled = self.norm(rows) * self.scale * rows.shape[-1] ** -0.5
        odds = self.proj(scaled).softmax(-1, dtype=torch.float32)
        weights, expert_ids = odds.topk(self.num_chosen)
        weights = weights / weights.sum(-1, keepdim=True)
        return expert_ids, weights * self.per_expert_scale.float()[expert_ids]
