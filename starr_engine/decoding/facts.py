"""What is known of the rows of a group before a step: integers to upload, and what is carried.

Letters: n rows of block length L, m scored positions of all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from starr_engine.decoding.rows import Member
from starr_engine.decoding.transfer import upload

Integers = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockFacts:
    """As of the step before; int64 unless noted."""

    token_ids: Tensor
    """[n, L] masks included."""

    mask_ids: Tensor
    """[n, 1] what a mask is."""

    taken: Tensor
    """[m] rows of the step's scores."""

    placed: Tensor
    """[m] places on the flat grid [n * L] that these are the scores of."""

    step: Tensor
    """[n], as in ``BlockView``; so for the next three."""

    num_left: Tensor
    seed: Tensor
    at_edge: Tensor
    """[n] bool."""

    num_masks: Tensor
    """[n] positions to generate, of all blocks."""

    counts: Tensor
    """[3, n]: positions unmasked so far, of all blocks; revocations in this block; steps after
    which it was held although it had no mask left."""

    is_carried: bool
    """Whether positions may have been scored that turn out to be no masks any more."""

    @property
    def masked(self) -> Tensor:
        """Bool [n, L]."""
        return self.token_ids == self.mask_ids

    @property
    def progress(self) -> Tensor:
        """float32 [n]; see ``BlockView``."""
        return (self.counts[0].double() / self.num_masks.double()).float()


class KnownFacts:
    """The facts of all groups of a step, on the host; they go up in one copy.

    Args:
        groups: Members of one block length each; what a row carries takes the place of what the
            host knows of it.
        others: Arrays of integers, of any shape, that go up with them.
    """

    def __init__(self, groups: Sequence[list[Member]], *others: Integers) -> None:
        self._groups = groups
        columns = [column for members in groups for column in _columns(members)]
        self._columns = [column.ravel() for column in (*columns, *others)]
        self._num_others = len(others)
        self.size = sum(column.size for column in self._columns)
        """Integers."""

    def fill(self, memory: NDArray[np.int64]) -> None:
        """Write all of it to int64 [size]."""
        np.concatenate([*self._columns, memory[:0]], out=memory)

    def read(self, flat: Tensor) -> tuple[list[BlockFacts], tuple[Tensor, ...]]:
        """What was filled, on the device.

        Args:
            flat: int64 [size]; facts are views of it, into which what is carried is put.

        Returns:
            Facts in the order of the groups, and the others flat.
        """
        uploaded = torch.split(flat, [column.size for column in self._columns])
        first_other = len(uploaded) - self._num_others
        count = first_other // len(self._groups) if self._groups else 0
        facts = [
            _facts(members, uploaded[count * n : count * (n + 1)])
            for n, members in enumerate(self._groups)
        ]
        return facts, uploaded[first_other:]

    def upload(self, device: torch.device) -> list[BlockFacts]:
        """The facts, where they do not go up with anything else."""
        flat = np.empty(self.size, np.int64)
        self.fill(flat)
        return self.read(upload(flat, device))[0]


def _columns(members: list[Member]) -> list[Integers]:
    group = [member.row for member in members]
    length = len(group[0].block_ids)
    sources = [
        np.arange(member.first_score, member.first_score + len(member.row.score_offsets))
        for member in members
    ]
    numbers = [
        (
            row.step, row.num_left, row.seed, row.at_edge, row.num_masks, row.mask_token_id,
            row.num_unmasked, row.num_revoked, row.num_held,
        )
        for row in group
    ]  # fmt: skip
    carried = [(n, row.carried) for n, row in enumerate(group) if row.carried is not None]
    span = np.arange(length)
    none = [np.empty(0, np.int64)]
    return [
        np.stack([row.block_ids for row in group]),
        np.concatenate(sources),
        np.concatenate([row.score_offsets + n * length for n, row in enumerate(group)]),
        np.array(numbers, np.int64).T,
        np.array([n for n, _ in carried], np.int64),
        np.array([row.index for _, row in carried], np.int64),
        np.concatenate([span + n * length for n, _ in carried] + none),
        np.concatenate([span + row.first for _, row in carried] + none),
    ]


def _facts(members: list[Member], uploaded: Sequence[Tensor]) -> BlockFacts:
    ids, taken, placed, numbers, rows_at, rows_from, ids_at, ids_from = uploaded
    count = len(members)
    columns = numbers.view(-1, count)
    step, num_left, seed, at_edge, num_masks, mask_ids = columns[:6].unbind(0)
    counts = columns[6:]
    carried = [member.row.carried.carried for member in members if member.row.carried is not None]
    if carried:
        before = carried[0]
        assert all(each is before for each in carried), "of one step"
        ids.index_copy_(0, ids_at, before.token_ids.index_select(0, ids_from))
        counts.index_copy_(1, rows_at, before.counts.index_select(1, rows_from))
    return BlockFacts(
        token_ids=ids.view(count, -1),
        mask_ids=mask_ids[:, None],
        taken=taken,
        placed=placed,
        step=step,
        num_left=num_left,
        seed=seed,
        at_edge=at_edge.bool(),
        num_masks=num_masks,
        counts=counts,
        is_carried=bool(carried),
    )
