"""What is known of the rows of a group before a step, on the device: one copy, and what is carried.

Letters: n rows of block length L, m scored positions of all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from starr_engine.decoding.rows import Member
from starr_engine.decoding.transfer import upload_columns


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


def block_facts(members: list[Member], device: torch.device) -> BlockFacts:
    """The facts of rows that are decided together.

    Args:
        members: n rows of one block length; what a row carries takes the place of what the host
            knows of it.
        device: Of the scores.
    """
    group = [member.row for member in members]
    count, length = len(group), len(group[0].block_ids)
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
    flat_ids, taken, placed, facts, at, from_, ids_at, ids_from = upload_columns(
        [
            np.stack([row.block_ids for row in group]),
            np.concatenate(sources),
            np.concatenate([row.score_offsets + n * length for n, row in enumerate(group)]),
            np.array(numbers, np.int64).T,
            np.array([n for n, _ in carried], np.int64),
            np.array([row.index for _, row in carried], np.int64),
            np.concatenate([span + n * length for n, _ in carried] + none),
            np.concatenate([span + row.first for _, row in carried] + none),
        ],
        device,
    )
    columns = facts.view(-1, count)
    step, num_left, seed, at_edge, num_masks, mask_ids = columns[:6].unbind(0)
    counts = columns[6:]
    if carried:
        before = carried[0][1].carried
        assert all(row.carried is before for _, row in carried), "of one step"
        flat_ids.index_copy_(0, ids_at, before.token_ids.index_select(0, ids_from))
        counts.index_copy_(1, at, before.counts.index_select(1, from_))
    return BlockFacts(
        token_ids=flat_ids.view(count, length),
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
