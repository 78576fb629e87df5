"""Random numbers of a row that depend on nothing but its request: seed, place and step."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from starr_engine.decoding.base import BlockView

# Weyl increment and multipliers of SplitMix64 (Steele, Lea, Flood 2014), as signed numbers.
_WEYL: Final = 0x9E3779B97F4A7C15 - 2**64
_FIRST: Final = 0xBF58476D1CE4E5B9 - 2**64
_SECOND: Final = 0x94D049BB133111EB - 2**64
_MANTISSA_BITS: Final = 24


def uniform(view: BlockView, stream: int = 0) -> Tensor:
    """Numbers from [0, 1) for every position of the block, new at every step.

    A hash of seed, place on the canvas, step and ``stream``, so that a row draws the same whatever
    shares its batch, on every device.

    Args:
        view: The step to draw for.
        stream: Tells several draws of one step apart.

    Returns:
        float32 [n, L].
    """
    length = view.masked.shape[1]
    place = view.num_left[:, None] + torch.arange(length, device=view.masked.device)
    state = _mix(view.seed[:, None] + _WEYL)
    for word in (place, view.step[:, None], torch.full_like(view.step, stream)[:, None]):
        state = _mix((state ^ word) + _WEYL)
    return _shift(state, 64 - _MANTISSA_BITS).float() / 2**_MANTISSA_BITS


def _mix(state: Tensor) -> Tensor:
    state = (state ^ _shift(state, 30)) * _FIRST
    state = (state ^ _shift(state, 27)) * _SECOND
    return state ^ _shift(state, 31)


def _shift(state: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch's is arithmetic."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)
