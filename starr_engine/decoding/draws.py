"""Random numbers of a row that depend on nothing but its request: seed, place and step."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from starr_engine.decoding.base import BlockView
from starr_engine.splitmix import WEYL, absorb, mix, shift_right

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
    state = mix(view.seed[:, None] + WEYL)
    for word in (place, view.step[:, None], stream):
        state = absorb(state, word)
    return shift_right(state, 64 - _MANTISSA_BITS).float() / 2**_MANTISSA_BITS
