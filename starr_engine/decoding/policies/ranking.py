"""Positions of a block in order of a score, the leftmost first among equals."""

from __future__ import annotations

import torch
from torch import Tensor


def rank(score: Tensor, among: Tensor) -> Tensor:
    """Place of every position from the largest score down.

    Args:
        score: [n, L]; NaN counts as lowest.
        among: bool [n, L]: who takes part; the others come behind all of these.

    Returns:
        int64 [n, L], from 0.
    """
    rows, length = score.shape
    places = torch.arange(length, device=score.device).expand(rows, length)
    order = torch.argsort(score.nan_to_num(nan=-torch.inf), dim=1, descending=True, stable=True)
    # A second stable sort keeps the order of the scores among those who take part.
    order = order.gather(1, torch.argsort((~among).gather(1, order).int(), dim=1, stable=True))
    return torch.empty_like(order).scatter_(1, order, places)


def top(score: Tensor, among: Tensor, count: Tensor | int) -> Tensor:
    """The ``count`` ([n] or one number) best of those who take part, or all if they are fewer.

    Returns:
        bool [n, L].
    """
    limit = count[:, None] if isinstance(count, Tensor) else count
    return among & (rank(score, among) < limit)
