"""Gated feed-forward layer."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Product of ``up`` and the SiLU of ``gate``, both [..., hidden].

    A function and not a module, because families name the projections around it differently.

    Source:
        Shazeer, "GLU variants improve transformer", arXiv 2002.05202, without biases.
    """
    return functional.silu(gate) * up
