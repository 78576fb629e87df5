"""What a step leaves on the device for the next one, which may be queued before the host knows it.

Letters: n rows of the step, of which each has a block of its own length L.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from starr_engine.decoding.stacking import RowState


@dataclass(frozen=True, slots=True, eq=False)
class Carried:
    """The rows of a step as its decisions leave them; the host's canvases follow later."""

    token_ids: Tensor
    """int64 [sum of L]: active blocks one behind the other, masks included."""

    counts: Tensor
    """int64 [3, n], see ``BlockFacts.counts``."""

    is_open: Tensor
    """bool [n]: whether the row's block goes on."""


@dataclass(frozen=True, slots=True, eq=False)
class CarriedRow:
    """One row's share, and what its policy remembers."""

    carried: Carried

    index: int
    """Among the n rows."""

    first: int
    """Of its block, in ``token_ids``."""

    state: RowState
