"""How far the first token of each mask is ahead of the second, in logits."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from starr_engine.decoding.base import BlockView

_LEAST: Final = torch.finfo(torch.float32).tiny
"""In place of a second probability that is too small for float32: a margin of 87 at most."""


def mean_margin(view: BlockView) -> Tensor:
    """Mean over the masks of log(top-1 / top-2), which is the difference of their logits.

    Returns:
        float32 [n]; 0 in a row without masks.
    """
    margin = torch.log(view.top1.clamp_min(_LEAST)) - torch.log(view.top2.clamp_min(_LEAST))
    total = torch.where(view.masked, margin, 0.0).sum(1)
    return total / view.masked.sum(1).clamp_min(1)
