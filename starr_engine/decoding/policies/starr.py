"""STaRR: a threshold for every mask, from how its confidence moved and where it stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

import torch
from torch import Tensor

from starr_engine import ops
from starr_engine.decoding.base import BlockView, Decision, EngineBounded, State
from starr_engine.decoding.policies.checks import (
    check_choice,
    check_count,
    check_not_negative,
    check_switch,
    check_unit_interval,
)
from starr_engine.decoding.policies.starr_cosine import cosine_deviance
from starr_engine.errors import RequestError
from starr_engine.starr_types import StarrDecision, StarrRule, StarrState

MAX_WINDOW: Final = 256
"""Steps or positions; beyond any block that is denoised together in practice."""
MAX_TOP_K: Final = 256
"""Tokens; every position of a block is compared on those of all others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StarrPolicy(EngineBounded):
    """Release stable tokens early; let unstable ones and ones below their neighbours wait.

    With c_i the confidence of mask i, M the masks of the block, and all over the current step:

        TV_i   = population std of the signal, c_i or the candidate's logit, over its last
                 n = min(steps seen, temporal_window) steps
        s_i    = exp(-TV_i / sigma) * n / temporal_window          for n >= 2, else 0
        u_i    = mean of c_j over 0 < |i-j| <= neighbour_window     (1 where j is no mask)
        SD_i   = c_i - u_i, or, with the cosine deviance, as in ``starr_cosine``
        tau    = clip(quantile({c_j : j in M}), tau_min, tau_max)
        tau_i  = clip(tau - alpha*s_i - beta*max(0, u_i - support)
                          + gamma*max(0, -SD_i)*(1 - s_i), c_slow, c_fast)
        tau_i  = max(c_slow, tau_i - relax*max(0, run_i - patience))

    and i is unmasked if c_i >= tau_i. With the cosine deviance +SD_i stands for -SD_i: there more
    means more at odds. ``run_i`` counts the steps for which the candidate of i has
    stayed the same; a change starts its window anew. Neighbours behind the block are masks that
    were not scored and do not count. ``revoke_below`` masks a token of the block again, once, when
    its recomputed probability falls below the value.

    Everything but the cosine deviance is computed by the compiled ``ops.starr_decide``; the cosine
    deviance is computed in PyTorch from the logits and given to it. ``signals`` of a decision:
    "threshold" (tau_i), "variance" (TV_i), "deviance" (SD_i) and "stability" (s_i).

    With alpha = beta = gamma = 0, patience off and tau_min = tau_max = c_fast this is the static
    threshold, decision for decision.

    Source:
        STaRR, arXiv 2601.04205 (v1 "STDD"). Known from it: per-token, per-step thresholds from
        temporal variance (of the confidence or the logit) and spatial deviance (a cosine on
        distributions cut to their top k), windows, a percentile, fast and slow tokens, and the
        directions in which they act. The combination above, its constants, the deviance of
        confidences, the restart on a changed candidate, patience and revocation are a
        reconstruction of this project.

    Raises:
        RequestError: If an argument is out of range; names all of a kind at once.
    """

    needs_shadow: ClassVar[bool] = False

    signal: Literal["confidence", "logit"] = "confidence"
    """What is watched over time."""

    deviance: Literal["confidence", "cosine"] = "confidence"
    """How a position is compared with its neighbours; "cosine" needs the logits of the step."""

    top_k: int = 10
    """Tokens left of each distribution for the cosine deviance; without it unused."""

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
    """Standard deviation of the signal at which stability falls to 1/e, in the signal's own unit:
    probability, or logit (nats). Since dc = c (1 - c) dlogit, 0.1 of probability is about 1 of
    logit near c = 0.9 and 0.4 near 0.5: with ``signal="logit"`` start from 1."""

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
        check_choice(self, "signal", ("confidence", "logit"))
        check_choice(self, "deviance", ("confidence", "cosine"))
        check_count(self, "top_k", most=MAX_TOP_K)
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

    @property
    def needs_logits(self) -> bool:
        """Only the cosine deviance looks at whole distributions."""
        return self.deviance == "cosine"

    @property
    def rule(self) -> StarrRule:
        """The arguments as the ops take them."""
        return StarrRule(
            neighbour_window=self.neighbour_window,
            quantile=self.quantile,
            tau_min=self.tau_min,
            tau_max=self.tau_max,
            sigma=self.sigma,
            alpha=self.alpha,
            beta=self.beta,
            support=self.support,
            gamma=self.gamma,
            c_fast=self.c_fast,
            c_slow=self.c_slow,
            patience=-1 if self.patience is None else self.patience,
            relax=self.relax,
            restart_on_flip=self.restart_on_flip,
            revoke_below=-1.0 if self.revoke_below is None else self.revoke_below,
        )

    def init_state(self, rows: int, block_length: int, device: torch.device) -> State:
        """Empty windows: the fields of ``StarrState``."""
        shape = (rows, block_length)
        state = StarrState(
            ring=torch.zeros((*shape, self.temporal_window), device=device),
            seen=torch.zeros(shape, dtype=torch.int64, device=device),
            run=torch.zeros(shape, dtype=torch.int64, device=device),
            candidate=torch.full(shape, -1, dtype=torch.int64, device=device),
            revoked=torch.zeros(shape, dtype=torch.bool, device=device),
        )
        return state._asdict()

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        """See the class."""
        return self.decide_with(ops.starr_decide, view, state)

    def decide_with(
        self, starr_decide: Callable[..., StarrDecision], view: BlockView, state: State
    ) -> tuple[Decision, State]:
        """``decide`` by another implementation of the op, such as the one in ``ops_reference``."""
        decided = starr_decide(
            view.candidates.contiguous(),
            view.confidence.contiguous(),
            view.masked.contiguous(),
            view.num_left,
            StarrState(**state),
            self.rule,
            signal=self._signal(view),
            deviance=self._deviance(view),
        )
        decision = Decision(
            unmask=decided.unmask,
            revoke=None if self.revoke_below is None else decided.revoke,
            signals={
                "threshold": decided.threshold,
                "variance": decided.variance,
                "deviance": decided.deviance,
                "stability": decided.stability,
            },
        )
        return decision, decided.state._asdict()

    def _signal(self, view: BlockView) -> Tensor | None:
        if self.signal == "confidence":
            return None
        if view.logit is None:
            raise ValueError('signal="logit" needs a view that has the logits of its candidates')
        return view.logit.contiguous()

    def _deviance(self, view: BlockView) -> Tensor | None:
        if self.deviance == "confidence":
            return None
        if view.logits is None:
            raise ValueError('deviance="cosine" needs a view that has logits')
        return cosine_deviance(
            view.logits, view.candidates, view.masked, view.num_left,
            window=self.neighbour_window, top_k=self.top_k,
        )  # fmt: skip
