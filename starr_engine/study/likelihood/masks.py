"""Which tokens of a block are masked to learn how probable it is, and what each mask counts.

For a block x of L tokens behind a context c, a masked diffusion model gives the bound

    log p(x | c)  >=  sum over l = 1..L of 1/L * mean over masks M of l positions of
                      L/l * sum over i in M of log p(x_i | c, x without M)

the form of the bound that LLaDA (arXiv 2502.09992) is evaluated by: l is uniform over 1..L, and the
l positions are drawn without replacement. Every mask therefore weighs 1 / (l * C(L, l)), and a mean
over n drawn masks is an estimate without bias.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedMask:
    """Positions that are masked together."""

    positions: tuple[int, ...]
    """Of the block, ascending, at least one."""

    weight: float
    """What the sum of their tokens' log-probabilities counts in the bound."""


def block_masks(length: int, samples: int, key: str) -> list[WeightedMask]:
    """All masks of a block where these are no more than ``samples``, else so many drawn ones.

    Args:
        length: Tokens of the block, at least 1.
        samples: At least 1. Masks drawn more than once come once, with their weights added.
        key: Equal keys draw equal masks, on every machine.
    """
    if 2**length - 1 <= samples:
        return all_masks(length)
    return drawn_masks(length, samples, random.Random(f"masks/{key}"))


def all_masks(length: int) -> list[WeightedMask]:
    """Every mask once: their weighted sum is the bound itself."""
    return [
        WeightedMask(positions=positions, weight=1 / (size * math.comb(length, size)))
        for size in range(1, length + 1)
        for positions in itertools.combinations(range(length), size)
    ]


def drawn_masks(length: int, samples: int, rng: random.Random) -> list[WeightedMask]:
    """``samples`` masks, their sizes spread evenly over 1..length from a random start.

    Each size is as probable as with independent draws, so that the mean keeps its expectation; the
    spreading, which LLaDA's evaluation does too, takes most of the variance that sizes bring.
    """
    start = rng.random()
    drawn: Counter[tuple[int, ...]] = Counter()
    for number in range(samples):
        size = min(1 + int(length * (number + start) / samples), length)
        drawn[tuple(sorted(rng.sample(range(length), size)))] += 1
    return [
        WeightedMask(positions=positions, weight=count * length / (len(positions) * samples))
        for positions, count in drawn.items()
    ]
