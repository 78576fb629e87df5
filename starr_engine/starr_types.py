"""What goes into and comes out of the STaRR ops; ``ops`` and ``ops_reference`` share these types.

Letters: ``n`` rows (one running request each), ``L`` block length, ``W`` temporal window.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class StarrRule(NamedTuple):
    """The numbers of the rule; what they mean is in ``decoding.policies.starr``.

    The temporal window is the last size of ``StarrState.ring``.
    """

    neighbour_window: int
    quantile: float
    tau_min: float
    tau_max: float
    sigma: float
    alpha: float
    beta: float
    support: float
    gamma: float
    c_fast: float
    c_slow: float
    patience: int
    """Negative: never."""
    relax: float
    restart_on_flip: bool
    revoke_below: float
    """Negative: never."""


class StarrState(NamedTuple):
    """What is remembered of each position of a block."""

    ring: Tensor
    """float32 [n, L, W]: the last signals; slot ``seen % W`` is the next."""
    seen: Tensor
    """int64 [n, L]: signals since the window last began."""
    run: Tensor
    """int64 [n, L]: steps for which the candidate has stayed the same."""
    candidate: Tensor
    """int64 [n, L]: of the last step; -1 before the first."""
    revoked: Tensor
    """bool [n, L]: masked again once."""


class StarrScores(NamedTuple):
    """Scores of a block, as in ``decoding.base.BlockView``; all [n, L]."""

    candidates: Tensor
    confidence: Tensor
    logit: Tensor
    top1: Tensor
    top2: Tensor
    entropy: Tensor


class StarrDecision(NamedTuple):
    """What a step decides, and the numbers behind it; all [n, L] but for the state."""

    unmask: Tensor
    """bool, within the masks."""
    revoke: Tensor
    """bool, within the unmasked positions."""
    state: StarrState
    """After the step; shares no memory with the one before."""
    threshold: Tensor
    """float32: tau_i, final."""
    variance: Tensor
    """float32: TV_i, in the unit of the signal."""
    deviance: Tensor
    """float32: SD_i."""
    stability: Tensor
    """float32: s_i."""
