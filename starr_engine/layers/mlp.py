"""Gated feed-forward layer."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from starr_engine.layers.linear import Linear
from starr_engine.layers.ranks import Ranks


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Product of ``up`` and the SiLU of ``gate``, both [..., hidden].

    A function and not a module, because families name the projections around it differently.

    Source:
        Shazeer, "GLU variants improve transformer", arXiv 2002.05202, without biases.
    """
    return functional.silu(gate) * up


class GatedFeedForward(nn.Module):
    """SwiGLU between three projections, under the names that most checkpoints use.

    Args:
        size: Length of a row.
        inner_size: Length of the gated row.
    """

    def __init__(self, size: int, inner_size: int) -> None:
        super().__init__()
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
        out: Tensor = self.down_proj(swiglu(self.gate_proj(rows), self.up_proj(rows)))
        return out
