"""How far an output agrees with the one that one token per step gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

ONE_TOKEN_PER_STEP: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "remasking": "low_confidence",
        "remasking_args": {},
        "early_exit": None,
        "early_exit_args": {},
    }
)
"""What makes any sampling parameters those of the reference: one token per step, nothing else."""


def is_identical(output: Sequence[int], reference: Sequence[int]) -> bool:
    """Whether all token ids are equal, and as many."""
    return tuple(output) == tuple(reference)


def equal_share(output: Sequence[int], reference: Sequence[int]) -> float:
    """Share of positions with equal tokens, counted over the longer of both; 1 if both are empty.

    Outputs come without EOS and what follows, so a missing or an extra token counts as unequal.
    """
    longest = max(len(output), len(reference))
    if not longest:
        return 1.0
    return sum(a == b for a, b in zip(output, reference, strict=False)) / longest
