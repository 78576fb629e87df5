"""Rotary positions: each pair of a head's components turns by an angle proportional to position.

Letters: T rows, H heads, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """Cosines and sines of one forward's rows, looked up once and used by every layer."""

    cos: Tensor
    """[T, 1, D/2]"""

    sin: Tensor
    """[T, 1, D/2]"""

    def take(self, rows: Tensor) -> Rotation:
        """The rotation of some of the rows, in the order of their indices ``rows`` [R] int64."""
        return Rotation(cos=self.cos.index_select(0, rows), sin=self.sin.index_select(0, rows))

    def apply(self, heads: Tensor) -> Tensor:
        """Turn component i with component i + D/2 of every head; computed in the table's dtype.

        Args:
            heads: [T, H, D].

        Returns:
            [T, H, D] in the dtype of ``heads``.
        """
        first, second = heads.to(self.cos.dtype).chunk(2, dim=-1)
        turned = (first * self.cos - second * self.sin, second * self.cos + first * self.sin)
        return torch.cat(turned, dim=-1).to(heads.dtype)


class RotaryEmbedding(nn.Module):
    """Table of angles for all positions that a model allows.

    Angles are computed in float32, as in the training of published checkpoints, and the table
    stays float32 when the weights are narrower. It is made on the CPU even inside a ``meta``
    context, because no checkpoint stores it.

    Args:
        head_dim: D, even.
        max_positions: Positions in the table.
        theta: Base of the geometric series of angular speeds.
        full_precision: Whether heads are rotated in float32; else in their own dtype.

    Source:
        RoFormer, arXiv 2104.09864, section 3.2, with components paired half a head apart.
    """

    cos: Tensor
    sin: Tensor

    def __init__(
        self, head_dim: int, max_positions: int, theta: float, *, full_precision: bool = True
    ) -> None:
        super().__init__()
        self.full_precision = full_precision
        with torch.device("cpu"):
            speed = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
            angle = torch.outer(torch.arange(max_positions, dtype=torch.float32), speed)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, positions: Tensor, dtype: torch.dtype) -> Rotation:
        """Rotation of rows at ``positions`` [T] int64, for heads of ``dtype``."""
        table_dtype = self.cos.dtype if self.full_precision else dtype
        cos, sin = (
            table.index_select(0, positions).unsqueeze(1).to(table_dtype)
            for table in (self.cos, self.sin)
        )
        return Rotation(cos=cos, sin=sin)
