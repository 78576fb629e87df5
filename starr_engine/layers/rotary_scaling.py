"""Angular speeds of rotary positions for contexts longer than those of pretraining.

Letters: R components of a head that turn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def plain_speeds(num_turned: int, theta: float) -> Tensor:
    """Angle per position of each pair: [R/2] float32, a geometric series from 1 to 1 / theta."""
    return 1.0 / theta ** (torch.arange(0, num_turned, 2, dtype=torch.float32) / num_turned)


@dataclass(frozen=True, slots=True, kw_only=True)
class Yarn:
    """YaRN: slow pairs turn slower by ``factor``, fast ones as before, those between in between.

    Source:
        Peng et al., "YaRN", arXiv 2309.00071, section 3.2; parameters as in transformers.
    """

    factor: float
    """By how much the context grows."""

    original_length: int
    """Context of pretraining, in rows."""

    beta_fast: float = 32.0
    """Pairs that turn at least so often over the original context keep their speed."""

    beta_slow: float = 1.0
    """Pairs that turn at most so often are slowed down by the whole factor."""

    mscale: float | None = None
    """With ``mscale_all_dim``: how strongly cosines and sines grow with the factor."""

    mscale_all_dim: float | None = None

    def speeds(self, num_turned: int, theta: float) -> Tensor:
        """Angle per position of each pair: [R/2] float32."""
        plain = plain_speeds(num_turned, theta)
        low = math.floor(self._pair_of(self.beta_fast, num_turned, theta))
        high = math.ceil(self._pair_of(self.beta_slow, num_turned, theta))
        low, high = max(low, 0), min(high, num_turned - 1)
        width = high - low or 0.001
        slowed = ((torch.arange(num_turned // 2, dtype=torch.float32) - low) / width).clamp(0, 1)
        return plain / self.factor * slowed + plain * (1 - slowed)

    @property
    def amplitude(self) -> float:
        """What cosines and sines are multiplied by."""
        if self.mscale and self.mscale_all_dim:
            return self._growth(self.mscale) / self._growth(self.mscale_all_dim)
        return self._growth(1.0)

    def _pair_of(self, num_turns: float, num_turned: int, theta: float) -> float:
        """The pair, as a real number, that turns so often over the original context."""
        length = self.original_length / (num_turns * 2 * math.pi)
        return num_turned * math.log(length) / (2 * math.log(theta))

    def _growth(self, mscale: float) -> float:
        return 0.1 * mscale * math.log(self.factor) + 1.0 if self.factor > 1 else 1.0
