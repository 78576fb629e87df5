"""One process of several that hold a model together, and what they say to each other.

Letters: T rows, H row size, M rows with logits, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional


class Work(Protocol):
    """A collective that was begun."""

    def wait(self) -> object:
        """Until it is done; on CUDA only what is queued behind it waits."""
        ...


class Collectives(Protocol):
    """What is used of torch's ``ProcessGroupGloo`` and ``ProcessGroupNCCL``."""

    def allreduce(self, tensors: list[Tensor]) -> Work:
        """Sum over all ranks, in place."""
        ...

    def gather(self, outputs: list[list[Tensor]], inputs: list[Tensor], options: Any) -> Work:
        """Everybody's tensors to the root that the options name."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """Which share of a model a process holds, and how shares of results come together.

    All ranks must call the same methods in the same order with tensors of the same shape.
    """

    rank: int
    """From 0; rank 0 owns the requests."""

    count: int
    collectives: Collectives | None = None
    """None where shares are only measured. No default group of torch is involved, so that a process
    may hold several engines."""

    def share(self, size: int) -> tuple[int, int]:
        """First and end of this rank's part of ``size`` things; parts differ by one at most."""
        return self.rank * size // self.count, (self.rank + 1) * size // self.count

    def heads(self, num_heads: int) -> tuple[int, int]:
        """This rank's heads; where there are fewer heads than ranks, neighbours have the same."""
        if num_heads >= self.count:
            return self.share(num_heads)
        first = self.rank * num_heads // self.count
        return first, first + 1

    def sum(self, rows: Tensor) -> Tensor:
        """Sum over all ranks, the same bits on each: [T, H], changed in place and returned."""
        assert self.collectives is not None
        if rows.numel():
            self.collectives.allreduce([rows]).wait()
        return rows

    def join_columns(self, columns: Tensor, size: int) -> Tensor:
        """Put the ranks' shares of ``size`` columns side by side on rank 0.

        Args:
            columns: [M, of this rank], or [M, size] where nothing was split.
            size: V, at least 2.

        Returns:
            [M, size] on rank 0; elsewhere ``columns``, which nobody needs.
        """
        if columns.shape[1] == size or not len(columns):
            return columns if columns.shape[1] == size else columns.new_empty((0, size))
        from torch.distributed import GatherOptions

        assert self.collectives is not None
        widest = -(-size // self.count)  # a collective takes equal shapes
        mine = functional.pad(columns, (0, widest - columns.shape[1])).contiguous()
        parts = [torch.empty_like(mine) for _ in range(self.count)] if self.rank == 0 else []
        options = GatherOptions()
        options.rootRank = 0
        self.collectives.gather([parts] if parts else [], [mine], options).wait()
        if not parts:
            return columns
        bounds = (Ranks(rank=rank, count=self.count).share(size) for rank in range(self.count))
        widths = (stop - start for start, stop in bounds)
        return torch.cat([part[:, :w] for part, w in zip(parts, widths, strict=True)], dim=1)


@runtime_checkable
class Splits(Protocol):
    """A module that can keep one rank's share of itself."""

    def split(self, ranks: Ranks) -> None:
        """Drop what other ranks hold; what is returned from then on is whole again."""
        ...
