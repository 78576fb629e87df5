"""A mixture of experts row by row, as its formula says it."""

from __future__ import annotations

import torch
from torch import Tensor

from starr_engine.layers.experts import Experts


def mix(experts: Experts, rows: Tensor, expert_ids: Tensor, weights: Tensor) -> Tensor:
    """What :class:`Experts` returns, one row and one expert at a time, in float64."""
    out = torch.zeros_like(rows, dtype=torch.float64)
    inner_size = experts.down.shape[-1]
    for row in range(len(rows)):
        for expert, weight in zip(expert_ids[row].tolist(), weights[row].tolist(), strict=True):
            gate_up = experts.gate_up[expert].double() @ rows[row].double()
            gate, up = gate_up[:inner_size], gate_up[inner_size:]
            inner = gate / (1 + torch.exp(-gate)) * up
            out[row] += weight * (experts.down[expert].double() @ inner)
    return out


def fill(module: torch.nn.Module, *, seed: int = 0, scale: float = 0.3) -> None:
    """Draw every parameter."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        drawn = torch.randn(parameter.shape, generator=generator) * scale
        parameter.data = drawn.to(parameter.dtype)
        parameter.requires_grad_(requires_grad=False)
