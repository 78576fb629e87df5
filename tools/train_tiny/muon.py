"""Muon in float32: torch's own works in bfloat16, which most CPUs only emulate."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Final

import torch
from torch import Tensor, nn

_MOMENTUM: Final = 0.95
_COEFFICIENTS: Final = (3.4445, -4.7750, 2.0315)
_ITERATIONS: Final = 5
_EPS: Final = 1e-7


class Float32Muon(torch.optim.Optimizer):
    """``torch.optim.Muon(adjust_lr_fn="match_rms_adamw")``, equal shapes in one product."""

    def __init__(self, params: Iterable[nn.Parameter]) -> None:
        super().__init__(params, {"lr": 1e-3, "weight_decay": 0.1})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Change all parameters by their gradients."""
        assert closure is None
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                by_shape[parameter.shape].append(parameter)
            for shape, parameters in by_shape.items():
                updates = []
                for parameter in parameters:
                    state = self.state[parameter]
                    if not state:
                        state["momentum_buffer"] = torch.zeros_like(parameter)
                    momentum, gradient = state["momentum_buffer"], parameter.grad
                    assert gradient is not None, "every matrix takes part in every forward"
                    momentum.lerp_(gradient, 1 - _MOMENTUM)
                    updates.append(gradient.lerp(momentum, _MOMENTUM))
                rate = group["lr"] * 0.2 * max(shape) ** 0.5
                turned = orthogonalise(torch.stack(updates))
                for parameter, update in zip(parameters, turned, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update, alpha=-rate)


def orthogonalise(matrices: Tensor) -> Tensor:
    """Push the singular values of ``matrices`` [count, rows, columns] towards 1.

    Five steps of the quintic Newton-Schulz iteration (Jordan 2024), in float32.
    """
    wide = matrices.shape[1] <= matrices.shape[2]
    x: Tensor = matrices if wide else matrices.transpose(1, 2)
    x = x / x.flatten(1).norm(dim=1).clamp(min=_EPS)[:, None, None]
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        square = x @ x.transpose(1, 2)
        x = a * x + (b * square + c * square @ square) @ x
    return x if wide else x.transpose(1, 2)
