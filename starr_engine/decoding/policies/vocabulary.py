"""State of vocabulary size: 4 * V bytes for every position of every running block."""

from __future__ import annotations

import torch
from torch import Tensor

from starr_engine.decoding.base import BlockView


def logits_of(view: BlockView) -> Tensor:
    """[n, L, V] float32 of a policy that declares ``needs_logits``."""
    assert view.logits is not None, "the engine gives logits to policies that need them"
    return view.logits


def empty_vocabulary(rows: int, block_length: int, device: torch.device) -> Tensor:
    """[rows, block_length, 0]: what a state of vocabulary size is before the first step.

    Only the first step's logits tell V; see :func:`is_empty`.
    """
    return torch.zeros((rows, block_length, 0), device=device)


def is_empty(values: Tensor) -> bool:
    """Whether no step has filled this state yet; the same for all rows of a view."""
    return values.shape[2] == 0
