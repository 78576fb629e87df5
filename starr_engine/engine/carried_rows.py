"""What a step takes from the one in front of it, which the host does not know yet.

Letters: T query rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from starr_engine.decoding.carrying import Carried
from starr_engine.engine.packed_arrays import PackedArrays
from starr_engine.engine.scheduler import ScheduledRequest

KNOWN: Final = -1
"""Source of what the host knows."""

NOT_KEPT: Final = -1
"""Slot of rows whose key and value go nowhere."""


@dataclass(frozen=True, slots=True)
class CarriedRows:
    """Puts what is carried where the host could only put what was before.

    The arrays say of each row where what it needs is found, or ``KNOWN``: ``row_sources`` int64 [T]
    its token in ``Carried.token_ids``, ``row_owners`` int64 [T] its request in ``Carried.is_open``.
    """

    carried: Carried

    def put_rows(self, inputs: Mapping[str, Tensor]) -> None:
        """Tokens of rows; rows of blocks that are done go nowhere.

        Args:
            inputs: ``input_ids`` and ``slot_mapping`` [T], which are changed, and the arrays.
        """
        ids, slots = inputs["input_ids"], inputs["slot_mapping"]
        ids.copy_(put(ids, self.carried.token_ids, inputs["row_sources"]))
        owners = inputs["row_owners"]
        is_kept = (owners == KNOWN) | self.carried.is_open[owners.clamp_min(0)]
        slots.copy_(torch.where(is_kept, slots, NOT_KEPT))


def put(known: Tensor, carried: Tensor, sources: Tensor) -> Tensor:
    """``known`` [n], or where ``sources`` int64 [n] says so, what is carried."""
    return torch.where(sources == KNOWN, known, carried[sources.clamp_min(0)])


def fill_sources(
    packed: PackedArrays, entries: Sequence[ScheduledRequest], cu_query: NDArray[np.int32]
) -> None:
    """Fill the arrays of :class:`CarriedRows`.

    Args:
        packed: Of the step; ``positions`` is filled.
        entries: Of the step.
        cu_query: int32 [R + 1] where the rows of each begin.
    """
    owners, firsts, starts, stops = np.array(
        [
            (*_source(entry), entry.running.request.canvas.block_start,
             entry.running.request.canvas.block_stop)
            for entry in entries
        ],
        np.int64,
    ).T  # fmt: skip
    of = np.repeat(np.arange(len(entries)), np.diff(cu_query))
    positions = packed.int64("positions")
    inside = (positions >= starts[of]) & (positions < stops[of]) & (owners[of] != KNOWN)
    packed.int64("row_sources")[:] = np.where(inside, firsts[of] + positions - starts[of], KNOWN)
    packed.int64("row_owners")[:] = owners[of]


def _source(entry: ScheduledRequest) -> tuple[int, int]:
    """Its place in ``Carried.is_open``, and its block's in ``Carried.token_ids``."""
    carried = entry.carried
    return (KNOWN, KNOWN) if carried is None else (carried.index, carried.first)
