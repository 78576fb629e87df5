"""Rotary positions: each pair of a head's components turns by an angle proportional to position.

Letters: T rows, H heads, D head size, R components of a head that turn: all, or the first few.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from starr_engine.layers.rotary_scaling import Yarn, plain_speeds


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """Cosines and sines of one forward's rows, looked up once and used by every layer."""

    cos: Tensor
    """[T, 1, R], each angle's twice: for both components of a pair."""

    sin: Tensor
    """[T, 1, R], likewise, and negative for the first component."""

    query_scale: Tensor | None = None
    """[T, 1, 1] what queries are multiplied by once they are turned; None for nothing."""

    @classmethod
    def of_pairs(cls, cos: Tensor, sin: Tensor) -> Rotation:
        """From one cosine and sine for each pair, [T, 1, R/2]."""
        return cls(cos=torch.cat((cos, cos), dim=-1), sin=torch.cat((-sin, sin), dim=-1))

    def take(self, rows: Tensor) -> Rotation:
        """The rotation of some of the rows, in the order of their indices ``rows`` [R] int64."""
        scale = self.query_scale
        return Rotation(
            cos=self.cos.index_select(0, rows),
            sin=self.sin.index_select(0, rows),
            query_scale=None if scale is None else scale.index_select(0, rows),
        )

    def turn(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Queries [T, N, D] and keys [T, K, D] as attention takes them."""
        turned = self.apply(query)
        if self.query_scale is not None:
            turned = turned * self.query_scale
        return turned, self.apply(key)

    def apply(self, heads: Tensor) -> Tensor:
        """Turn component i with component i + R/2 of every head; computed in the table's dtype.

        Args:
            heads: [T, H, D]; components from R on stay as they are.

        Returns:
            [T, H, D] in the dtype of ``heads``.
        """
        num_turned = self.cos.shape[-1]
        is_whole = num_turned == heads.shape[-1]
        turning = (heads if is_whole else heads[..., :num_turned]).to(self.cos.dtype)
        first, second = turning.chunk(2, dim=-1)
        partners = torch.cat((second, first), dim=-1)
        out = (turning * self.cos).add_(partners.mul_(self.sin)).to(heads.dtype)
        if is_whole:
            return out
        return torch.cat((out, heads[..., num_turned:]), dim=-1)


class RotaryEmbedding(nn.Module):
    """Table of angles for all positions that a model allows.

    Angles are computed in float32, as in the training of published checkpoints, and the table
    stays float32 when the weights are narrower. It is made on the CPU even inside a ``meta``
    context, because no checkpoint stores it.

    Args:
        num_turned: R, even.
        max_positions: Positions in the table.
        theta: Base of the geometric series of angular speeds.
        full_precision: Whether heads are rotated in float32; else in their own dtype.
        yarn: How the context was extended; None if it was not.

    Source:
        RoFormer, arXiv 2104.09864, section 3.2, with components paired half of R apart.
    """

    cos: Tensor
    sin: Tensor

    def __init__(
        self,
        num_turned: int,
        max_positions: int,
        theta: float,
        *,
        full_precision: bool = True,
        yarn: Yarn | None = None,
    ) -> None:
        super().__init__()
        self.full_precision = full_precision
        with torch.device("cpu"):
            speed = plain_speeds(num_turned, theta)
            if yarn is not None:
                speed = yarn.speeds(num_turned, theta)
            angle = torch.outer(torch.arange(max_positions, dtype=torch.float32), speed)
            amplitude = 1.0 if yarn is None else yarn.amplitude
        self.register_buffer("cos", angle.cos() * amplitude, persistent=False)
        self.register_buffer("sin", angle.sin() * amplitude, persistent=False)

    def forward(self, positions: Tensor, dtype: torch.dtype) -> Rotation:
        """Rotation of rows at ``positions`` [T] int64, for heads of ``dtype``."""
        table_dtype = self.cos.dtype if self.full_precision else dtype
        cos, sin = (
            table.index_select(0, positions).unsqueeze(1).to(table_dtype)
            for table in (self.cos, self.sin)
        )
        return Rotation.of_pairs(cos, sin)


class RotaryAngles(nn.Module):
    """Angles computed at every forward, for models whose table would be large.

    Args:
        num_turned: R, even.
        theta: Base of the geometric series of angular speeds.
        share: Of the pairs, the first ones, which turn; the others stand still.

    Source:
        ``proportional`` rotary positions of Gemma 4, whose speeds are those of a whole head.
    """

    speeds: Tensor

    def __init__(self, num_turned: int, theta: float, share: float = 1.0) -> None:
        super().__init__()
        with torch.device("cpu"):
            speeds = plain_speeds(num_turned, theta)
            speeds[int(share * num_turned // 2) :] = 0.0
        self.register_buffer("speeds", speeds, persistent=False)

    def forward(self, positions: Tensor, dtype: torch.dtype) -> Rotation:
        """Rotation of rows at ``positions`` [T] int64, for heads of ``dtype``."""
        angles = (positions.float()[:, None] * self.speeds).unsqueeze(1)
        return Rotation.of_pairs(angles.cos().to(dtype), angles.sin().to(dtype))
