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
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        scaled = (wide * scale).to(rows.dtype) * self.weight
        return scaled if self.bias is None else scaled + self.bias
