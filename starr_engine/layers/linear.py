"""Projections and look-ups whose parameters wait for a checkpoint.

torch's own classes draw random numbers when they are made; on the ``meta`` device that only
imports a symbolic algebra package, which takes seconds.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Linear(nn.Module):
    """Product with a learnt matrix [size_out, size_in], plus a learnt bias if there is one."""

    def __init__(self, size_in: int, size_out: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty((size_out, size_in)))
        self.bias = nn.Parameter(torch.empty(size_out)) if bias else None

    def forward(self, rows: Tensor) -> Tensor:
        """[..., size_in] -> [..., size_out]."""
        return functional.linear(rows, self.weight, self.bias)


class Embedding(nn.Module):
    """A learnt row of ``size`` for each of ``num_rows`` token ids."""

    def __init__(self, num_rows: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty((num_rows, size)))

    def forward(self, token_ids: Tensor) -> Tensor:
        """[T] int64 -> [T, size]."""
        return functional.embedding(token_ids, self.weight)
