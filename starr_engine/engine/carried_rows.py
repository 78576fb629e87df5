"""What a step takes from the one in front of it, which the host does not know yet.

Letters: T query rows, M rows with logits.
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
from starr_engine.request import Positions

KNOWN: Final = -1
"""Source of what the host knows."""

NOT_KEPT: Final = -1
"""Slot of rows whose key and value go nowhere."""


@dataclass(frozen=True, slots=True)
class CarriedRows:
    """Puts what is carried where the host could only put what was before.

    The arrays say of each row where what it needs is found, or ``KNOWN``: ``row_sources`` int64 [T]
    its token in ``Carried.token_ids``, ``row_owners`` int64 [T] its request in ``Carried.is_open``,
    ``present_sources`` int64 [M] the token at a scored position.
    """

    carried: Carried

    def put_rows(self, inputs: Mapping[str, Tensor]) -> None:
        """Tokens of rows; rows of blocks that are done go nowhere.

        Args:
            inputs: ``input_ids`` and ``slot_mapping`` [T], which are changed, and the arrays.
        """
        ids, slots = inputs["input_ids"], inputs["slot_mapping"]
        ids.copy_(_put(ids, self.carried.token_ids, inputs["row_sources"]))
        owners = inputs["row_owners"]
        is_kept = (owners == KNOWN) | self.carried.is_open[owners.clamp_min(0)]
        slots.copy_(torch.where(is_kept, slots, NOT_KEPT))

    def present(self, present_ids: Tensor, sources: Tensor) -> Tensor:
        """``present_ids`` [M] with what is carried."""
        return _put(present_ids, self.carried.token_ids, sources)


def _put(known: Tensor, carried: Tensor, sources: Tensor) -> Tensor:
    return torch.where(sources == KNOWN, known, carried[sources.clamp_min(0)])


def fill_sources(
    packed: PackedArrays,
    entries: Sequence[ScheduledRequest],
    scored: Sequence[Positions],
    cu_query: NDArray[np.int32],
) -> None:
    """Fill the arrays of :class:`CarriedRows`.

    Args:
        packed: Of the step; ``positions`` is filled.
        entries: Of the step.
        scored: Positions scored, of each; shadow rows, behind them, are known.
        cu_query: int32 [R + 1] where the rows of each begin.
    """
    firsts, owners, starts, stops = np.array(
        [
            (
                KNOWN if entry.carried is None else entry.carried.first,
                KNOWN if entry.carried is None else entry.carried.index,
                entry.running.request.canvas.block_start,
                entry.running.request.canvas.block_stop,
            )
            for entry in entries
        ],
        np.int64,
    ).T

    def sources(positions: NDArray[np.int64], of: NDArray[np.int64]) -> NDArray[np.int64]:
        inside = (positions >= starts[of]) & (positions < stops[of]) & (firsts[of] != KNOWN)
        return np.where(inside, firsts[of] + positions - starts[of], KNOWN)

    of_rows = np.repeat(np.arange(len(entries)), np.diff(cu_query))
    packed.int64("row_sources")[:] = sources(packed.int64("positions"), of_rows)
    packed.int64("row_owners")[:] = owners[of_rows]
    of_scored = np.repeat(np.arange(len(entries)), [len(each) for each in scored])
    present = packed.int64("present_sources")
    present[len(of_scored) :] = KNOWN
    present[: len(of_scored)] = sources(np.concatenate(scored).astype(np.int64), of_scored)
