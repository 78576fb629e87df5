"""STDec, reconstructed: a threshold that decoded neighbours and a steady candidate lower."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from starr_engine.decoding.base import BlockView, Decision, PolicyDefaults, State
from starr_engine.decoding.policies.checks import (
    check_count,
    check_not_negative,
    check_unit_interval,
)
from starr_engine.errors import RequestError

MAX_SIGMA: Final = 64.0
"""Positions; beyond it every block is one neighbourhood."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StdecPolicy(PolicyDefaults):
    """Unmask ``{i : c_i >= tau_i}``; a **reconstruction**.

        tau_i = tau - spatial * sum_j K(i - j) * [j is decoded] - temporal * [streak_i >= patience]

    K is a Gaussian of standard deviation ``sigma`` positions, cut at three of them, without its
    centre, of sum 1: the sum is the weighted share of decoded neighbours. Decoded are the block's
    tokens and everything in front of the block; beyond the sequence's start and behind the block
    nothing is. ``streak_i`` counts the steps, this one included, for which the candidate of i has
    been the same.

    Known from summaries of the paper: a token's threshold comes from a Gaussian-weighted aggregate
    of the state of nearby positions; a counter of equal candidates lowers it once it reaches a
    limit. The linear form above and all constants are this project's; the paper's formulas and
    values were not available.

    Source:
        STDec, arXiv 2604.06330, second-hand.

    Raises:
        RequestError: If an argument is out of range.
    """

    tau: float = 0.9
    """Threshold of a token that nothing speaks for."""

    spatial: float = 0.2
    """How far a neighbourhood that is wholly decoded lowers it."""

    sigma: float = 2.0
    """Width of the neighbourhood, positions."""

    temporal: float = 0.2
    """How far a steady candidate lowers it."""

    patience: int = 3
    """Steps with one candidate that make it steady."""

    def __post_init__(self) -> None:
        check_unit_interval(self, "tau", upper=2.0)
        check_not_negative(self, "spatial", "sigma", "temporal")
        check_count(self, "patience")
        if not 0.0 < self.sigma <= MAX_SIGMA:
            raise RequestError(
                f"sigma must be above 0 and at most {MAX_SIGMA:g}, got {self.sigma!r}; "
                "spatial=0 switches the spatial term off"
            )

    def init_state(self, rows: int, block_length: int, device: torch.device) -> State:
        """No candidate seen."""
        shape = (rows, block_length)
        return {
            "candidate": torch.full(shape, -1, dtype=torch.int64, device=device),
            "streak": torch.zeros(shape, dtype=torch.int64, device=device),
        }

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        """See the class."""
        streak = torch.where(view.candidates == state["candidate"], state["streak"], 0) + 1
        support = decoded_share(view, self.sigma)
        threshold = self.tau - self.spatial * support - self.temporal * (streak >= self.patience)
        unmask = view.masked & (view.confidence >= threshold)
        return (
            Decision(unmask=unmask, signals={"threshold": threshold, "support": support}),
            {"candidate": view.candidates, "streak": streak},
        )


def decoded_share(view: BlockView, sigma: float) -> Tensor:
    """Share of decoded neighbours under a Gaussian of ``sigma`` positions: [n, L] in [0, 1]."""
    device = view.masked.device
    radius = max(1, math.ceil(3 * sigma))
    offsets = torch.arange(-radius, radius + 1, device=device)
    weights = torch.exp(-0.5 * (offsets / sigma).square()).masked_fill(offsets == 0, 0.0)
    in_front = torch.arange(radius, 0, -1, device=device) <= view.num_left[:, None]
    behind = torch.zeros_like(in_front)
    decoded = torch.cat([in_front, ~view.masked, behind], dim=1)
    windows = decoded.unfold(1, 2 * radius + 1, 1)
    return (windows * weights).sum(-1) / weights.sum()
