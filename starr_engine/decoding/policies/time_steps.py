"""Dream's linear time steps, shared by the policies that follow them."""

from __future__ import annotations

import torch
from torch import Tensor

from starr_engine.decoding.transfer import upload


def time_steps(num_steps: int, eps: float, device: torch.device) -> Tensor:
    """Times from 1 down to ``eps``: float32 [num_steps + 1].

    Laid out on the CPU whatever the device, so that a step takes as many tokens everywhere.
    """
    return upload(torch.linspace(1.0, eps, num_steps + 1).numpy(), device)
