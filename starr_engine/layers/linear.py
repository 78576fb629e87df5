"""Projections and look-ups whose parameters wait for a checkpoint.

torch's own classes draw random numbers when they are made; on the ``meta`` device that only
imports a symbolic algebra package, which takes seconds.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from starr_engine.layers.places import Bounds, Cut, cut_parameter
from starr_engine.layers.ranks import Ranks


class Linear(nn.Module):
    """Product with a learnt matrix [size_out, size_in], plus a learnt bias if there is one."""

    def __init__(self, size_in: int, size_out: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty((size_out, size_in)))
        self.bias = nn.Parameter(torch.empty(size_out)) if bias else None
        self.cuts: Mapping[str, Cut] = {}
        self._ranks: Ranks | None = None

    def keep_outputs(self, *rows: Bounds) -> None:
        """Keep these outputs alone, in this order; nothing is exchanged between ranks."""
        cut = Cut(rows=rows)
        self.cuts = cut_parameter(self, "weight", cut)
        if self.bias is not None:
            self.cuts = {**self.cuts, **cut_parameter(self, "bias", cut)}

    def split(self, ranks: Ranks) -> None:
        """Keep this rank's share of the outputs."""
        self.keep_outputs(ranks.share(len(self.weight)))

    def keep_inputs(self, columns: Bounds, ranks: Ranks | None) -> None:
        """Take these inputs alone, and add up what all ranks make of theirs.

        Args:
            columns: Of the matrix.
            ranks: Who adds up; None leaves it to the caller, who may only do so without a bias.
        """
        assert ranks is not None or self.bias is None
        self.cuts = cut_parameter(self, "weight", Cut(columns=columns))
        self._ranks = ranks

    def forward(self, rows: Tensor) -> Tensor:
        """[..., size_in] -> [..., size_out]."""
        if self._ranks is None:
            return functional.linear(rows, self.weight, self.bias)
        summed = self._ranks.sum(functional.linear(rows, self.weight))
        return summed if self.bias is None else summed + self.bias


class Embedding(nn.Module):
    """A learnt row of ``size`` for each of ``num_rows`` token ids."""

    def __init__(self, num_rows: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty((num_rows, size)))
        self.cuts: Mapping[str, Cut] = {}
        self._ranks: Ranks | None = None
        self._first = 0

    def split(self, ranks: Ranks) -> None:
        """Keep the rows of this rank's share of the token ids."""
        kept = ranks.share(len(self.weight))
        self.cuts = cut_parameter(self, "weight", Cut(rows=(kept,)))
        self._ranks, self._first = ranks, kept[0]

    def forward(self, token_ids: Tensor) -> Tensor:
        """[T] int64 -> [T, size]."""
        if self._ranks is None:
            return functional.embedding(token_ids, self.weight)
        places = token_ids - self._first
        is_elsewhere = (places < 0) | (places >= len(self.weight))
        rows = functional.embedding(places.masked_fill(is_elsewhere, 0), self.weight)
        # All but one rank add 0, so that the sum is the row itself.
        return self._ranks.sum(rows.masked_fill(is_elsewhere.unsqueeze(-1), 0))
