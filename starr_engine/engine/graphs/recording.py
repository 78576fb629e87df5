"""What a recording keeps, and a step that was put into one."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from starr_engine.attention.fixed import FixedAttention
from starr_engine.engine.carried_rows import CarriedRows
from starr_engine.engine.graphs.recorder import Run
from starr_engine.engine.packed_arrays import PackedArrays


@dataclass(frozen=True, slots=True, order=True)
class Bucket:
    """The size of a recording."""

    num_sequences: int
    """N."""

    rows_each: int
    """Q."""

    num_pages: int
    """W."""

    @property
    def num_rows(self) -> int:
        """Rows of the forward."""
        return self.num_sequences * self.rows_each


def _nothing() -> None:
    """What an unfinished recording replays."""


@dataclass(slots=True)
class Recording:
    """The forward of all steps of one bucket."""

    memory: Tensor
    """What it reads of a step, at the same address each time."""

    inputs: dict[str, Tensor]
    """Views of it."""

    attention: FixedAttention
    replay: Run = _nothing

    def load(self, grid: PackedArrays, uploaded: Tensor, carried: CarriedRows | None) -> None:
        """Give it another step.

        Args:
            grid: As it was uploaded.
            uploaded: That on the device. It is copied once more there: the facts behind the grid
                are read after the next step was loaded, and have to lie elsewhere.
            carried: What the step takes from the one in front of it.
        """
        self.memory.copy_(uploaded[: len(self.memory)])
        if carried is not None:
            carried.put_rows(self.inputs)
        self.attention.prepare(grid.int32("key_lens"), grid.int32("page_table"))


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedStep:
    """A step whose forward is a replay; no other one may be loaded before it has run."""

    bucket: Bucket
    recording: Recording

    facts: Tensor
    """See ``StepBatch``."""

    num_scored: int
    """Rows with logits."""

    @property
    def logits_rows(self) -> Tensor:
        """int64 [M], on the grid."""
        return self.recording.inputs["logits_rows"][: self.num_scored]
