"""Which rows of a step keep what layers add to them, and which are computed in part.

Letters: T query rows of the step, U of them computed in part, C of these chosen in each layer
behind the first, Q = T - U + C computed there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from starr_engine import ops
from starr_engine._core import PlanError
from starr_engine.attention.base import AttentionMetadata
from starr_engine.cache.rows import RowRanges, difference, intersection, num_rows, union
from starr_engine.engine.scheduler import ScheduledRequest

FlatRows = NDArray[np.int64]
Upload = Callable[[NDArray[np.generic]], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialRows:
    """Rows computed in part; how many are chosen is known on the host, which ones is not."""

    rows: Tensor
    """[U] int64 flat rows, request by request."""

    slots: Tensor
    """[U] int64 where all that is kept of them lies."""

    bounds: tuple[int, ...]
    """Request r has ``rows[bounds[r]:bounds[r+1]]``; only requests with such rows count."""

    counts: tuple[int, ...]
    """How many of them are chosen."""

    computed: Tensor
    """[Q] int64 flat rows computed behind the first layer, any row where a chosen one belongs."""

    chosen_at: Tensor
    """[C] int64 where in ``computed`` the chosen ones belong."""

    attention: AttentionMetadata
    """Of the rows ``computed``; keys and values that are kept are stored already."""

    def choose(self, value: Tensor, v_cache: Tensor) -> Tensor:
        """The rows that a layer computes; to be called before its new values are stored.

        Args:
            value: [T, K, D] of this step.
            v_cache: [P, G, K, D] of the same layer.

        Returns:
            [Q] int64 flat rows.
        """
        similarity = ops.row_similarity(value.index_select(0, self.rows), v_cache, self.slots)
        chosen = ops.select_lowest(similarity, self.bounds, self.counts)
        return self.computed.index_copy(0, self.chosen_at, self.rows.index_select(0, chosen))


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureRows:
    """Rows of a step that keep what layers add to them."""

    slots: Tensor
    """[T] int64 where that goes; -1 for rows that keep nothing."""

    partial: PartialRows | None
    """None if every row is computed in every layer."""


def check_partial(entry: ScheduledRequest, mask_block: int | None) -> None:
    """Hold the rows that a plan computes in part to what must be kept of them.

    Args:
        entry: Its other sets are checked where batches are laid out.
        mask_block: See ``ModelSpec.mask_block``.

    Raises:
        PlanError: Says which rule is broken.
    """
    running, plan = entry.running, entry.plan
    if not plan.partial:
        if plan.num_chosen:
            _refuse("num_chosen without partial rows", plan.partial, plan.num_chosen)
        return
    rows = num_rows(plan.partial)
    cached: RowRanges = () if running.pages is None else tuple(running.pages.cached_ranges())
    if mask_block is not None or plan.isolated:
        # Rows that see different numbers of rows would have to be known on the host.
        problem = "rows are computed in part only where each sees all that is read"
    elif not running.cache.keeps_features:
        problem = "rows can be computed in part only if the policy says keeps_features"
    elif union(plan.partial) != plan.partial:
        problem = "partial must be sorted, disjoint ranges"
    elif difference(plan.partial, intersection(plan.write, cached)):
        problem = "partial must be a subset of write and of the rows cached earlier"
    elif not 1 <= plan.num_chosen <= rows:
        problem = f"num_chosen must be in [1, {rows}]"
    else:
        return
    _refuse(problem, plan.partial, plan.num_chosen)


def _refuse(problem: str, partial: RowRanges, num_chosen: int) -> None:
    raise PlanError(f"plan refused: {problem} ({partial=}, {num_chosen=})")


def feature_rows(
    entries: Sequence[ScheduledRequest],
    positions: FlatRows,
    slots: FlatRows,
    attention: AttentionMetadata,
    upload: Upload,
) -> FeatureRows | None:
    """What of a step's rows the layers need to know; None if nobody keeps features.

    Args:
        entries: In the order of the rows.
        positions: [T].
        slots: [T] where keys and values go.
        attention: Of all rows.
        upload: Takes an array to the device.
    """
    keeps = [entry.running.cache.keeps_features and bool(entry.plan.write) for entry in entries]
    if not any(keeps):
        return None
    kept = np.where(np.repeat(keeps, attention.query_lens), slots, -1)
    has_partial = any(entry.plan.partial for entry in entries)
    partial = _partial_rows(entries, positions, slots, attention, upload) if has_partial else None
    return FeatureRows(slots=upload(kept), partial=partial)


def _partial_rows(
    entries: Sequence[ScheduledRequest],
    positions: FlatRows,
    slots: FlatRows,
    attention: AttentionMetadata,
    upload: Upload,
) -> PartialRows:
    rows: list[FlatRows] = []
    counts: list[int] = []
    computed: list[FlatRows] = []
    chosen_at: list[FlatRows] = []
    query_lens: list[int] = []
    first = at = 0
    for entry, length, num_shadow in zip(
        entries, attention.query_lens, attention.shadow_lens, strict=True
    ):
        stop = first + length
        shadows = np.arange(stop - num_shadow, stop)
        own = np.arange(first, stop - num_shadow)
        is_partial = np.zeros(len(own), np.bool_)
        for bounds in entry.plan.partial:
            is_partial[slice(*np.searchsorted(positions[own], bounds))] = True
        others, in_part, count = own[~is_partial], own[is_partial], entry.plan.num_chosen
        if count:
            rows.append(in_part)
            counts.append(count)
            chosen_at.append(np.arange(count) + at + len(others))
        # Shadow rows stay last; among the others the order does not matter.
        computed += [others, in_part[:count], shadows]
        query_lens.append(len(others) + count + num_shadow)
        first, at = stop, at + query_lens[-1]
    flat, flat_computed = np.concatenate(rows), np.concatenate(computed)
    indices = upload(flat_computed)
    return PartialRows(
        rows=upload(flat),
        slots=upload(slots[flat]),
        bounds=(0, *np.cumsum([len(piece) for piece in rows]).tolist()),
        counts=tuple(counts),
        computed=indices,
        chosen_at=upload(np.concatenate(chosen_at)),
        attention=replace(
            attention,
            cu_query=upload(np.cumsum([0, *query_lens], dtype=np.int32)),
            query_lens=tuple(query_lens),
            slot_mapping=torch.full_like(indices, -1),
            # Rows in part all see the same, so that it does not matter which of them are chosen.
            visible=attention.visible.index_select(0, indices),
        ),
    )
