"""Which requests read consecutive slots, so that a CPU needs no copy of them.

Letters as in ``attention/base.py``; B requests of one call, L read rows of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from torch import Tensor

from starr_engine.attention.base import AttentionMetadata


@dataclass(frozen=True, slots=True)
class SlotRun:
    """Consecutive slots of one request or of several evenly spaced ones."""

    first: int
    """Slot that the first request's rows begin at."""

    step: int
    """Slots from one request's first to the next one's."""

    def view(self, cache: Tensor, num_requests: int, read_len: int) -> Tensor:
        """[P, G, K, D] -> [B, K, L, D], a view."""
        slots = cache.view(-1, *cache.shape[2:])
        row, head, element = slots.stride()
        return slots.as_strided(
            (num_requests, cache.shape[2], read_len, cache.shape[3]),
            (self.step * row, head, row, element),
            slots.storage_offset() + self.first * row,
        )


def first_slots(metadata: AttentionMetadata, page_size: int) -> list[int | None]:
    """Where each request's slots begin; None if they are not consecutive.

    The page table is read on the host, so that all are None where it is on another device.
    """
    starts: list[int | None] = [None] * len(metadata.fresh)
    table = metadata.page_table
    if table.device.type != "cpu" or not any(metadata.reads_prefix):
        return starts
    pages = table.numpy()
    num_pages = -(-np.array(metadata.read_lens) // page_size)
    follows = np.diff(pages, axis=1) == 1
    unused = np.arange(follows.shape[1]) >= num_pages[:, None] - 1
    consecutive = (follows | unused).all(axis=1) & np.array(metadata.reads_prefix)
    for index in np.flatnonzero(consecutive).tolist():
        starts[index] = int(pages[index, 0]) * page_size
    return starts


def split_evenly(starts: Sequence[int | None]) -> list[tuple[int, SlotRun | None]]:
    """Calls for neighbours of equal lengths: how many requests, and the slots they read in place.

    One call if all read consecutive slots that are evenly spaced, a call each if they are not
    evenly spaced, and one call that gathers if a request's slots are not consecutive.
    """
    known = [start for start in starts if start is not None]
    if len(known) < len(starts) or not known:
        return [(len(starts), None)]
    steps = {after - before for before, after in pairwise(known)}
    if len(steps) <= 1 and min(steps, default=0) >= 0:
        return [(len(known), SlotRun(known[0], min(steps, default=0)))]
    return [(1, SlotRun(start, 0)) for start in known]
