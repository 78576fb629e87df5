"""SplitMix64 (Steele, Lea, Flood 2014) on tensors: random numbers that need no state but a place.

Tensors are int64 and stand for unsigned numbers.
"""

from __future__ import annotations

from typing import Final

from torch import Tensor

WEYL: Final = 0x9E3779B97F4A7C15 - 2**64
"""The step from one state to the next."""

_FIRST: Final = 0xBF58476D1CE4E5B9 - 2**64
_SECOND: Final = 0x94D049BB133111EB - 2**64


def mix(state: Tensor) -> Tensor:
    """64 random bits of each state, [...]."""
    state = (state ^ shift_right(state, 30)) * _FIRST
    state = (state ^ shift_right(state, 27)) * _SECOND
    return state ^ shift_right(state, 31)


def absorb(state: Tensor, word: Tensor | int) -> Tensor:
    """The state of a stream of its own for every ``word``."""
    return mix((state ^ word) + WEYL)


def shift_right(state: Tensor, bits: int) -> Tensor:
    """Logical right shift by 1 to 63 bits; torch's is arithmetic."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)
