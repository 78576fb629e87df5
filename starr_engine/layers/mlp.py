"""Gated feed-forward layer."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

from starr_engine.layers.linear import Linear
from starr_engine.layers.ranks import Ranks

Gate = Callable[[Tensor, Tensor], Tensor]
"""``(gate, up)``, both [..., hidden] -> [..., hidden]; may overwrite ``gate``."""


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Product of ``up`` and the SiLU of ``gate``, both [..., hidden]; overwrites ``gate``.

    A function and not a module, because families name the projections around it differently.

    Source:
        Shazeer, "GLU variants improve transformer", arXiv 2002.05202, without biases.
    """
    return functional.silu(gate, inplace=True).mul_(up)


def geglu(gate: Tensor, up: Tensor) -> Tensor:
    """Product of ``up`` and the GELU of ``gate``, in its tanh form, both [..., hidden].

    Source:
        As :func:`swiglu`; ``gelu_pytorch_tanh`` of Gemma.
    """
    return functional.gelu(gate, approximate="tanh").mul_(up)


class GatedFeedForward(nn.Module):
    """A gate between three projections, under the names that most checkpoints use.

    Args:
        size: Length of a row.
        inner_size: Length of the gated row.
        gate: Joins what the first two projections make of a row.
    """

    def __init__(self, size: int, inner_size: int, gate: Gate = swiglu) -> None:
        super().__init__()
        self.gate = gate
        self.gate_proj = Linear(size, inner_size, bias=False)
        self.up_proj = Linear(size, inner_size, bias=False)
        self.down_proj = Linear(inner_size, size, bias=False)

    def split(self, ranks: Ranks, *, sums: bool = True) -> None:
        """Keep this rank's share of the gated row; without ``sums`` the caller adds up."""
        inner = ranks.share(len(self.gate_proj.weight))
        self.gate_proj.keep_outputs(inner)
        self.up_proj.keep_outputs(inner)
        self.down_proj.keep_inputs(inner, ranks if sums else None)

    def forward(self, rows: Tensor) -> Tensor:
        """[T, size] -> [T, size]."""
        out: Tensor = self.down_proj(self.gate(self.gate_proj(rows), self.up_proj(rows)))
        return out
