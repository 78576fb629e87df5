"""The drift signal: how far values have moved from what the pages hold of them.

The signal of a step is the mean of 1 - cosine, over the rows that the step computes although
their token is the one they were cached with, of a row's new value in the last layer and the
value in its slot. It costs one pass over two rows of values each, and no forward.

Source:
    dLLM-Cache (arXiv 2506.06295) takes the cosine of values in each layer to choose rows; here it
    only says when to refresh. The last layer sums up what happened in all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from starr_engine import ops
from starr_engine.cache.base import StepKind
from starr_engine.cache.rows import difference, intersection
from starr_engine.engine.running import RequestView
from starr_engine.engine.scheduler import ScheduledRequest

FlatRows = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRows:
    """The rows of a step whose values are compared, request by request."""

    entries: tuple[ScheduledRequest, ...]
    """Those with such rows."""

    counts: tuple[int, ...]
    """How many each has."""

    rows: Tensor
    """[n] int64 into the step's rows."""

    slots: Tensor
    """[n] int64 where their old values lie."""

    def similarity(self, value: Tensor, v_cache: Tensor) -> Tensor:
        """Cosines [n] float32; to be taken before the new values are stored.

        Args:
            value: [T, K, D] of this step's rows.
            v_cache: [P, G, K, D] of the same layer.
        """
        return ops.row_similarity(value[self.rows], v_cache, self.slots)

    def note(self, similarity: NDArray[np.float64]) -> None:
        """Add the step's signal to each request's drift since its refresh."""
        pieces = np.split(similarity, np.cumsum(self.counts)[:-1])
        for entry, cosines in zip(self.entries, pieces, strict=True):
            # Where there is no cosine nothing is known, as for rows at right angles.
            drift = float((1.0 - np.nan_to_num(cosines, nan=0.0)).mean())
            entry.running.request.drift_since_refresh += drift


def measured_rows(
    entries: Sequence[ScheduledRequest], cu_query: NDArray[np.int32]
) -> tuple[list[ScheduledRequest], list[FlatRows]]:
    """Who is measured at this step, and at which flat rows; a refresh begins anew and is not.

    Args:
        entries: Of the step, in the order of its rows.
        cu_query: [R + 1] where the rows of each begin.
    """
    measured: list[ScheduledRequest] = []
    rows: list[FlatRows] = []
    for entry, first in zip(entries, cu_query[:-1].tolist(), strict=True):
        if not entry.running.cache.needs_drift or entry.plan.kind in (
            StepKind.REFRESH,
            StepKind.PREFILL,
        ):
            continue
        view = RequestView(entry.running)
        held = intersection(entry.plan.write, difference(view.cached, view.dirty))
        if held:
            query = _listed(entry.plan.query)
            measured.append(entry)
            rows.append(first + np.searchsorted(query, _listed(held)))
    return measured, rows


def _listed(ranges: Sequence[tuple[int, int]]) -> FlatRows:
    return np.concatenate([np.arange(start, stop, dtype=np.int64) for start, stop in ranges])
