"""Probes: how far a step's logits are off because of what its cache policy reuses.

Letters: m probed rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from starr_engine.outputs import CacheDrift
from starr_engine.params import SamplingParams

RowErrors = NDArray[np.float64]
"""[m, 3]: KL divergence, whether the arg-max differs, error of the top-1 probability."""

_WORD: Final = 2**64


def is_probed(params: SamplingParams, step: int) -> bool:
    """Whether a request's step is probed: a hash of seed and step, so the batch never matters.

    Args:
        params: Of the request.
        step: Forwards of the request before this one.
    """
    if params.cache_probe_rate in (0.0, 1.0):
        return params.cache_probe_rate == 1.0
    # Two rounds of SplitMix64 (Steele, Lea, Flood 2014), as in decoding.draws.
    word = _mixed(_mixed(params.seed) ^ step)
    return (word >> 11) / 2**53 < params.cache_probe_rate


def _mixed(word: int) -> int:
    word = (word + 0x9E3779B97F4A7C15) % _WORD
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % _WORD
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB % _WORD
    return word ^ (word >> 31)


def row_errors(cached: Tensor, full: Tensor, mask_token_id: int) -> Tensor:
    """What separates the logits of a step from those that nothing was reused for.

    The mask token counts for nothing, as in decoding. KL(full || cached) is in nats.

    Args:
        cached: [m, V] of the step.
        full: [m, V] with all live rows computed.
        mask_token_id: From the checkpoint.

    Returns:
        [m, 3] float64, see ``RowErrors``; NaN where either has no distribution.
    """
    # An exact policy shows less than float32 could tell from 0.
    logs = []
    for logits in (full, cached):
        wide = logits.to(torch.float64, copy=True)
        wide[:, mask_token_id] = -torch.inf
        logs.append(wide.log_softmax(-1))
    true, got = logs
    chance = true.exp()
    # What the full forward rules out adds nothing, whatever the cached one says of it.
    terms = torch.where(chance > 0, chance * (true - got), 0.0)
    best, chosen = true.max(-1), got.max(-1)
    flips = (best.indices != chosen.indices).double()
    gap = (best.values.exp() - chosen.values.exp()).abs()
    divergence = terms.sum(-1).clamp_min(0.0)
    flips = torch.where(divergence.isnan() | gap.isnan(), torch.nan, flips)
    return torch.stack([divergence, flips, gap], dim=1)


class ProbeTally:
    """What the probes of one request, or of many, have found so far."""

    def __init__(self) -> None:
        self.num_probes = 0
        self.num_rows = 0
        self._sums = np.zeros(3)
        self._largest = np.zeros(3)

    def add(self, errors: RowErrors) -> None:
        """One probe; rows whose logits are no finite numbers are not counted."""
        errors = errors[np.isfinite(errors).all(axis=1)]
        self.num_probes += 1
        self.num_rows += len(errors)
        self._sums += errors.sum(axis=0)
        self._largest = np.maximum(self._largest, errors.max(axis=0, initial=0.0))

    def include(self, other: ProbeTally) -> None:
        """Add all that another tally has found."""
        self.num_probes += other.num_probes
        self.num_rows += other.num_rows
        self._sums += other._sums
        self._largest = np.maximum(self._largest, other._largest)

    def report(self) -> CacheDrift:
        """The numbers to give out."""
        if not self.num_rows:
            return CacheDrift(probe_forwards=self.num_probes)
        means = (self._sums / self.num_rows).tolist()
        return CacheDrift(
            probe_forwards=self.num_probes,
            rows_compared=self.num_rows,
            flip_rate=means[1],
            mean_kl=means[0],
            max_kl=float(self._largest[0]),
            mean_confidence_error=means[2],
            max_confidence_error=float(self._largest[2]),
        )


def split_errors(errors: RowErrors, row_counts: Sequence[int]) -> list[RowErrors]:
    """The rows of each probed request, which has so many of them."""
    return np.split(errors, np.cumsum(row_counts)[:-1])
