"""Scores by which policies order the masks of a block, and taking the best of them.

Letters: n rows, L block length. Equal scores keep the order of the text: lowest index first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from starr_engine.decoding.base import BlockView

SCORES: Final[dict[str, Callable[[BlockView], Tensor]]] = {
    "confidence": lambda view: view.confidence,
    "margin": lambda view: view.top1 - view.top2,
    "entropy": lambda view: -view.entropy,
}
"""What Dream calls maskgit_plus, topk_margin and entropy; float32 [n, L], larger is surer."""


def best_first(score: Tensor, masked: Tensor) -> Tensor:
    """Offsets by descending score, every mask before whatever is none: int64 [n, L]."""
    lowest = torch.finfo(score.dtype).min
    # A mask of score -inf still comes before what is no mask.
    keys = score.clamp_min(lowest).masked_fill(~masked, -torch.inf)
    return torch.argsort(keys, dim=1, descending=True, stable=True)


def by_offset(order: Tensor, by_rank: Tensor) -> Tensor:
    """Values listed in ``order`` put back to their offsets, [n, L]."""
    return torch.empty_like(by_rank).scatter_(1, order, by_rank)


def take_best(score: Tensor, masked: Tensor, count: Tensor | int) -> Tensor:
    """The ``count`` (or ``count`` [n]) masks with the largest score, all if there are fewer."""
    order = best_first(score, masked)
    rank = torch.arange(order.shape[1], device=order.device).expand_as(order)
    limit = count[:, None] if isinstance(count, Tensor) else count
    return masked & (by_offset(order, rank) < limit)


def take_leading(order: Tensor, passes: Tensor, masked: Tensor) -> Tensor:
    """The masks before the first one in ``order`` that fails; ``passes`` bool [n, L] by rank."""
    return masked & by_offset(order, passes.cumprod(1).bool())
