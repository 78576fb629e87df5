"""Dynamic-dLLM's adaptive parallel decoding: a threshold that the distributions move."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from starr_engine.decoding.base import BlockView, Decision, PolicyDefaults, State
from starr_engine.decoding.policies.checks import check_not_negative, check_unit_interval
from starr_engine.decoding.policies.vocabulary import empty_vocabulary, is_empty, logits_of
from starr_engine.errors import RequestError


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicDllmPolicy(PolicyDefaults):
    """Unmask ``{i : c_i >= theta_i}``; theta falls with every step and rises with every shift.

    theta starts at ``theta_0``. From the second step of the block on, with p_i the distribution of
    mask i, q_i that of the step before and p_(2) the second largest probability:

        A_i     = 1 - p_(2),i
        D_i     = 1 - cos(p_i, q_i)
        theta_i = theta_i - alpha * A_i + beta * D_i                        mode "token"
        theta   = theta - alpha * mean_{i in M} A_i + beta * mean_{i in M} D_i    mode "mean"

    A_i is near 1 for sure tokens, so alpha is also an ageing per step. The authors do not bound
    theta; ``theta_min`` and ``theta_max`` do.

    Differs from the authors' code in where it starts: there the step counter, the thresholds and q
    run on over all blocks, so that later blocks begin with what the earlier ones have left; here
    all restart with each block, and a long answer is decoded with higher thresholds than there.
    A smaller ``theta_0`` makes up for it; a summary of the paper names .9.

    State: 4 * V bytes a position for q, and 4. Cosines are computed in float32, exact to 1e-6.

    Source:
        Dynamic-dLLM (ICLR 2026), the authors' code, whose defaults these are. Its published runs
        do not say which values they used.

    Raises:
        RequestError: If an argument is out of range.
    """

    needs_logits: ClassVar[bool] = True

    mode: str = "mean"
    """"token" gives each mask its own threshold, "mean" one to the block."""

    alpha: float = 0.01
    """Fall of the threshold per step of a token that has no rival."""

    beta: float = 0.15
    """Rise of the threshold at a shift to an orthogonal distribution."""

    theta_0: float = 1.0
    """Threshold at the block's first step."""

    theta_min: float | None = None
    theta_max: float | None = None
    """Bounds of the thresholds; None leaves them free."""

    def __post_init__(self) -> None:
        if self.mode not in ("token", "mean"):
            raise RequestError(f"mode must be 'token' or 'mean', got {self.mode!r}")
        check_not_negative(self, "alpha", "beta")
        check_unit_interval(self, "theta_0", upper=2.0)
        bounds = [name for name in ("theta_min", "theta_max") if getattr(self, name) is not None]
        check_unit_interval(self, *bounds, upper=2.0)
        low, high = self._bounds
        if low > high:
            raise RequestError(f"theta_min must not exceed theta_max: {low} > {high}")

    @property
    def _bounds(self) -> tuple[float, float]:
        low = -math.inf if self.theta_min is None else self.theta_min
        return low, math.inf if self.theta_max is None else self.theta_max

    def init_state(self, rows: int, block_length: int, device: torch.device) -> State:
        """Thresholds at their start, no distribution seen."""
        return {
            "previous": empty_vocabulary(rows, block_length, device),
            "theta": torch.full((rows, block_length), float(self.theta_0), device=device),
        }

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        """See the class."""
        now = logits_of(view).softmax(-1)
        theta = state["theta"]
        shift = torch.zeros_like(theta)
        if not is_empty(state["previous"]):
            shift = 1.0 - torch.cosine_similarity(now, state["previous"], dim=-1)
            move = self.beta * shift - self.alpha * (1.0 - view.top2)
            if self.mode == "mean":
                move = _mean_of_masks(move, view.masked)
            theta = (theta + move).clamp(*self._bounds)
        unmask = view.masked & (view.confidence >= theta)
        return (
            Decision(unmask=unmask, signals={"threshold": theta, "shift": shift}),
            {"previous": now, "theta": theta},
        )


def _mean_of_masks(values: Tensor, masked: Tensor) -> Tensor:
    """[n, 1]; 0 in a row without masks."""
    total = torch.where(masked, values, 0.0).sum(1, keepdim=True)
    return total / masked.sum(1, keepdim=True).clamp_min(1)
