"""Root mean square normalisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Scales rows to unit root mean square, then by a learnt weight.

    The statistics are float32 whatever the dtype of the rows, and the normalised row is rounded
    to that dtype before the weight is applied: the order in which published checkpoints were
    trained, which matters in bfloat16.

    Args:
        size: Length of a row.
        eps: Added to the mean square.
        bias: Whether a learnt bias is added.
    """

    def __init__(self, size: int, eps: float, *, bias: bool = False) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(size))
        self.bias = nn.Parameter(torch.empty(size)) if bias else None

    def forward(self, rows: Tensor) -> Tensor:
        """Normalise rows [..., size]; the dtype is kept."""
        wide = rows.float()
        scale = wide.square().mean(-1, keepdim=True).add_(self.eps).rsqrt_()
        # In place where the rows are ours: large tensors cost more to get than to fill.
        scaled = (wide * scale).to(rows.dtype).mul_(self.weight)
        return scaled if self.bias is None else scaled.add_(self.bias)


class WideRMSNorm(nn.Module):
    """Scales rows to unit root mean square and by a learnt weight, all in float32.

    Unlike :class:`RMSNorm` it rounds to the dtype of the rows once, at the end.

    Args:
        size: Length of a row.
        eps: Added to the mean square.
        scale: Whether there is a weight.

    Source:
        Gemma's norms, from the fourth generation on, whose weight is not one less than the factor.
    """

    def __init__(self, size: int, eps: float, *, scale: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(size)) if scale else None

    def forward(self, rows: Tensor) -> Tensor:
        """Normalise rows [..., size]; the dtype is kept."""
        wide = rows.float()
        scaled = wide * wide.square().mean(-1, keepdim=True).add_(self.eps).rsqrt_()
        if self.weight is not None:
            scaled.mul_(self.weight.float())
        return scaled.to(rows.dtype)
