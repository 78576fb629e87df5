"""STaRR: a threshold for every mask, from how its confidence moved and where it stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

from starr_engine.decoding.base import BlockView, Decision, State
from starr_engine.decoding.policies.checks import (
    check_count,
    check_not_negative,
    check_switch,
    check_unit_interval,
)
from starr_engine.errors import RequestError

MAX_WINDOW: Final = 256
"""Steps or positions; beyond any block that is denoised together in practice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StarrPolicy:
    """Release stable tokens early; let unstable ones and ones below their neighbours wait.

    With c_i the confidence of mask i, M the masks of the block, and all over the current step:

        TV_i   = population std of c_i over its last n = min(steps seen, temporal_window) steps
        s_i    = exp(-TV_i / sigma) * n / temporal_window          for n >= 2, else 0
        u_i    = mean of c_j over 0 < |i-j| <= neighbour_window     (1 where j is no mask)
        SD_i   = c_i - u_i
        tau    = clip(quantile({c_j : j in M}), tau_min, tau_max)
        tau_i  = clip(tau - alpha*s_i - beta*max(0, u_i - support)
                          + gamma*max(0, -SD_i)*(1 - s_i), c_slow, c_fast)
        tau_i  = max(c_slow, tau_i - relax*max(0, run_i - patience))

    and i is unmasked if c_i >= tau_i. ``run_i`` counts the steps for which the candidate of i has
    stayed the same; a change starts its window anew. Neighbours behind the block are masks that
    were not scored and do not count. ``revoke_below`` masks a token of the block again, once, when
    its recomputed probability falls below the value.

    With alpha = beta = gamma = 0, patience off and tau_min = tau_max = c_fast this is the static
    threshold, decision for decision.

    Source:
        STaRR, arXiv 2601.04205 (v1 "STDD"). Known from it: per-token, per-step thresholds from
        temporal variance and spatial deviance, windows, a percentile, fast and slow tokens, and
        the directions in which they act. The combination above, its constants, the restart on a
        changed candidate, patience and revocation are a reconstruction of this project.

    Raises:
        RequestError: If an argument is out of range; names all of a kind at once.
    """

    needs_logits: ClassVar[bool] = False

    temporal_window: int = 3
    """W_t, steps; 1 switches the temporal term off."""

    neighbour_window: int = 4
    """W_n, positions on each side; 0 switches the spatial terms off."""

    quantile: float = 0.7
    """p, of the confidences of the block's masks."""

    tau_min: float = 0.6
    tau_max: float = 0.9
    """Bounds of the step's threshold."""

    sigma: float = 0.1
    """Standard deviation of the confidence at which stability falls to 1/e."""

    alpha: float = 0.3
    """How far stability lowers the threshold."""

    beta: float = 0.3
    """How far a settled neighbourhood lowers the threshold."""

    support: float = 0.5
    """u_0: neighbourhood confidence above which it counts as settled."""

    gamma: float = 1.0
    """How far standing below the neighbourhood raises the threshold."""

    c_fast: float = 0.95
    """Confidence at which a token is unmasked at once."""

    c_slow: float = 0.5
    """Confidence below which only the progress guarantee unmasks."""

    patience: int | None = None
    """Steps with an unchanged candidate after which the threshold relaxes; None never."""

    relax: float = 0.05
    """Fall of the threshold per step beyond ``patience``."""

    restart_on_flip: bool = True
    """Whether a changed candidate empties its window."""

    revoke_below: float | None = None
    """Recomputed probability below which a token is masked again; None never."""

    def __post_init__(self) -> None:
        # Memory grows with the one window and time with the other, for all requests of a batch.
        check_count(self, "temporal_window", most=MAX_WINDOW)
        check_count(self, "neighbour_window", least=0, most=MAX_WINDOW)
        check_switch(self, "restart_on_flip")
        check_unit_interval(self, "quantile", "support")
        # Up to 2, so that thresholds nothing can reach give one token per step.
        check_unit_interval(self, "tau_min", "tau_max", "c_fast", "c_slow", upper=2.0)
        check_not_negative(self, "sigma", "alpha", "beta", "gamma", "relax")
        if self.patience is not None:
            check_count(self, "patience")
        if self.revoke_below is not None:
            check_unit_interval(self, "revoke_below")
        for low, high in (("tau_min", "tau_max"), ("c_slow", "c_fast")):
            if getattr(self, low) > getattr(self, high):
                raise RequestError(
                    f"{low} must not exceed {high}: {getattr(self, low)} > {getattr(self, high)}"
                )
        if self.sigma == 0.0:
            raise RequestError("sigma must be above 0; alpha=0 switches the temporal term off")

    @property
    def scores_unmasked(self) -> bool:
        """Only revocation looks at unmasked tokens again."""
        return self.revoke_below is not None

    def init_state(self, rows: int, block_length: int, device: torch.device) -> State:
        """Empty windows: [rows, block_length, ...]."""
        shape = (rows, block_length)
        return {
            "ring": torch.zeros((*shape, self.temporal_window), device=device),
            "seen": torch.zeros(shape, dtype=torch.int64, device=device),
            "run": torch.zeros(shape, dtype=torch.int64, device=device),
            "candidate": torch.full(shape, -1, dtype=torch.int64, device=device),
            "revoked": torch.zeros(shape, dtype=torch.bool, device=device),
        }

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        """See the class."""
        state = self._observe(view, state)
        variation = self._variation(state)
        stability = self._stability(state, variation)
        support = neighbourhood(view, self.neighbour_window)
        deviance = torch.where(support.isnan(), 0.0, view.confidence - support)
        support = support.nan_to_num(nan=0.0)

        threshold = self._step_threshold(view)[:, None]
        threshold = threshold - self.alpha * stability
        threshold = threshold - self.beta * (support - self.support).clamp_min(0.0)
        threshold = threshold + self.gamma * (-deviance).clamp_min(0.0) * (1.0 - stability)
        threshold = threshold.clamp(self.c_slow, self.c_fast)
        if self.patience is not None:
            overdue = (state["run"] - self.patience).clamp_min(0)
            threshold = (threshold - self.relax * overdue).clamp_min(self.c_slow)

        unmask = view.masked & (view.confidence >= threshold)
        signals = {
            "threshold": threshold,
            "variance": variation,
            "deviance": deviance,
            "stability": stability,
        }
        if self.revoke_below is None:
            return Decision(unmask=unmask, signals=signals), state
        revoke = ~view.masked & ~state["revoked"] & (view.confidence < self.revoke_below)
        state["revoked"] = state["revoked"] | revoke
        state["seen"] = state["seen"].masked_fill(revoke, 0)
        state["run"] = state["run"].masked_fill(revoke, 0)
        return Decision(unmask=unmask, revoke=revoke, signals=signals), state

    def _observe(self, view: BlockView, state: State) -> State:
        same = view.candidates == state["candidate"]
        kept = same if self.restart_on_flip else same | (state["seen"] > 0)
        seen = torch.where(kept, state["seen"], 0)
        slot = (seen % self.temporal_window)[..., None]
        return {
            "ring": state["ring"].scatter(2, slot, view.confidence[..., None]),
            "seen": seen + 1,
            "run": torch.where(same, state["run"], 0) + 1,
            "candidate": view.candidates,
            "revoked": state["revoked"],
        }

    def _variation(self, state: State) -> Tensor:
        # The window is filled from its start after each restart, so its first n entries count.
        ring = state["ring"]
        length = state["seen"].clamp_max(self.temporal_window)
        counts = torch.arange(self.temporal_window, device=ring.device) < length[..., None]
        mean = (ring * counts).sum(-1) / length
        square = ((ring - mean[..., None]).square() * counts).sum(-1) / length
        return square.sqrt()

    def _stability(self, state: State, variation: Tensor) -> Tensor:
        length = state["seen"].clamp_max(self.temporal_window)
        stability = torch.exp(-variation / self.sigma) * (length / self.temporal_window)
        return torch.where(length >= 2, stability, 0.0)

    def _step_threshold(self, view: BlockView) -> Tensor:
        masked_only = view.confidence.masked_fill(~view.masked, torch.nan)
        quantile = torch.nanquantile(masked_only, self.quantile, dim=1)
        return quantile.nan_to_num(nan=self.tau_max).clamp(self.tau_min, self.tau_max)


def neighbourhood(view: BlockView, window: int) -> Tensor:
    """Mean confidence within ``window`` positions on each side, without the position itself.

    Unmasked tokens of the block and tokens in front of it count as 1; masks behind the block do
    not count.

    Returns:
        [n, L] float32; NaN where a position has no neighbour.
    """
    settled = torch.where(view.masked, view.confidence, 1.0)
    length = settled.shape[1]
    index = torch.arange(length, device=settled.device)
    total = torch.zeros_like(settled)
    count = torch.zeros_like(settled)
    for distance in range(1, window + 1):
        inside = min(distance, length)
        total[:, inside:] += settled[:, : length - inside]
        total[:, : length - inside] += settled[:, inside:]
        # In front of the block lie num_left tokens, all of them settled.
        before = (index < distance) & (distance - index <= view.num_left[:, None])
        total += before
        count += before
        count[:, inside:] += 1
        count[:, : length - inside] += 1
    return total / count
