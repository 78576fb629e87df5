"""A step as ragged sequences under no mask, which is all that paged attention kernels know.

A *sequence* is some neighbouring query rows of one request and the keys that all of them see: the
first ones of those that the request reads. A request under a block-causal mask is one sequence per
run of rows that see equally many. Everything here is arithmetic on the host; nothing waits for the
device. Letters as in ``attention/base.py``; N sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from starr_engine.attention.base import AttentionMetadata

Indices = NDArray[np.int64]

MAX_COPIES: Final = 2
"""How often a key may be copied for sequences of one request, on average, before a mask is better.

A block that is committed with the next one's first step needs 2 at most, a prompt many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Requests with query rows, by the way they are computed; each in one list, ascending."""

    paged: tuple[int, ...]
    """Keys are read through the page table."""

    gathered: tuple[int, ...]
    """Keys are copied out of their slots, one sequence's behind the other's."""

    fresh: tuple[int, ...]
    """Keys are rows of this step."""

    masked: tuple[int, ...]
    """What rows see is not the first keys, or would have to be copied too often: shadow rows, and
    block-causal masks without pages to read through."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequences:
    """Sequences of some requests, in their order; no length is 0."""

    query_lens: tuple[int, ...]
    key_lens: tuple[int, ...]

    owners: tuple[int, ...]
    """Request of each sequence."""

    bounds: tuple[Tensor, Tensor] | None = field(default=None, compare=False)
    """:meth:`cumulative` as it lies on the device, where the sequences are a step's requests."""

    @property
    def max_query(self) -> int:
        """Of the longest."""
        return max(self.query_lens)

    @property
    def max_key(self) -> int:
        """Keys of the sequence that sees most."""
        return max(self.key_lens)

    def cumulative(self) -> NDArray[np.int32]:
        """[2, N+1]: where the query rows of each sequence begin and end, and its packed keys."""
        both = np.zeros((2, len(self.owners) + 1), np.int32)
        np.cumsum(self.query_lens, out=both[0, 1:])
        np.cumsum(self.key_lens, out=both[1, 1:])
        return both

    def device_bounds(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """:meth:`cumulative` on the device: int32 [N+1] each."""
        if self.bounds is not None:
            return self.bounds
        cu_query, cu_keys = upload(self.cumulative(), device)
        return cu_query, cu_keys

    def page_counts(self, page_size: int) -> NDArray[np.int32]:
        """[N]: pages that each sequence reads."""
        return -(-np.array(self.key_lens, np.int32) // np.int32(page_size))


def sort_requests(metadata: AttentionMetadata, *, reads_pages: bool) -> Parts:
    """Which request is computed how.

    Args:
        metadata: Of the step.
        reads_pages: Whether the kernel reads through page tables.
    """
    lists: dict[str, list[int]] = {"paged": [], "gathered": [], "fresh": [], "masked": []}
    for index, query_len in enumerate(metadata.query_lens):
        if query_len == 0:
            continue
        limited, fresh = metadata.limited[index], metadata.fresh[index]
        if metadata.shadow_lens[index] or (limited and fresh):
            lists["masked"].append(index)
        elif fresh:
            lists["fresh"].append(index)
        elif reads_pages and metadata.reads_prefix[index]:
            lists["paged"].append(index)
        else:
            copied = sum(seen for _, seen in metadata.visible_runs[index])
            is_much = copied > MAX_COPIES * metadata.read_lens[index]
            lists["masked" if is_much else "gathered"].append(index)
    return Parts(**{name: tuple(indices) for name, indices in lists.items()})


def sequences_of(metadata: AttentionMetadata, requests: Sequence[int]) -> Sequences:
    """The sequences of requests without shadow rows."""
    found = [
        (rows, seen, index)
        for index in requests
        for rows, seen in metadata.visible_runs[index]
        or ((metadata.query_lens[index], metadata.read_lens[index]),)
    ]
    query_lens, key_lens, owners = zip(*found, strict=True)
    bounds = None
    if query_lens == metadata.query_lens:
        # Lengths that add up to those of the step are those of its requests.
        if key_lens == query_lens and all(metadata.fresh):
            bounds = (metadata.cu_query, metadata.cu_query)
        elif key_lens == metadata.read_lens and not any(metadata.fresh):
            bounds = (metadata.cu_query, metadata.cu_read)
    return Sequences(query_lens=query_lens, key_lens=key_lens, owners=owners, bounds=bounds)


def flat_rows(metadata: AttentionMetadata, requests: Sequence[int]) -> Indices:
    """Query rows of the requests."""
    ends = [0, *accumulate(metadata.query_lens)]
    return _ranges([(ends[index], ends[index + 1]) for index in requests])


def flat_reads(metadata: AttentionMetadata, sequences: Sequences) -> Indices:
    """Which of ``read_slots`` hold the packed keys of the sequences; their requests have slots."""
    lengths = (
        0 if fresh else read_len
        for fresh, read_len in zip(metadata.fresh, metadata.read_lens, strict=True)
    )
    starts = [0, *accumulate(lengths)]
    keys = zip(sequences.owners, sequences.key_lens, strict=True)
    return _ranges([(starts[owner], starts[owner] + count) for owner, count in keys])


def of_requests(metadata: AttentionMetadata, requests: Sequence[int]) -> AttentionMetadata:
    """The step with these requests alone, whose rows are :func:`flat_rows`."""
    device = metadata.read_slots.device
    whole = [(metadata.query_lens[index], metadata.read_lens[index], index) for index in requests]
    query_lens, read_lens, owners = zip(*whole, strict=True)
    fresh = tuple(metadata.fresh[index] for index in requests)
    own_slots = [
        0 if is_fresh else length for is_fresh, length in zip(fresh, read_lens, strict=True)
    ]
    paged = [item for item, is_fresh in zip(whole, fresh, strict=True) if not is_fresh]
    reads = np.empty(0, np.int64)
    if paged:
        paged_query, paged_read, paged_owners = zip(*paged, strict=True)
        kept = Sequences(query_lens=paged_query, key_lens=paged_read, owners=paged_owners)
        reads = flat_reads(metadata, kept)
    rows = upload(flat_rows(metadata, requests), device)
    return AttentionMetadata(
        cu_query=upload(np.cumsum([0, *query_lens], dtype=np.int32), device),
        cu_read=upload(np.cumsum([0, *own_slots], dtype=np.int32), device),
        read_slots=metadata.read_slots.index_select(0, upload(reads, device)),
        slot_mapping=metadata.slot_mapping.index_select(0, rows),
        page_table=page_rows_of(metadata.page_table, owners),
        query_lens=query_lens,
        read_lens=read_lens,
        fresh=fresh,
        shadow_lens=tuple(metadata.shadow_lens[index] for index in requests),
        visible=metadata.visible.index_select(0, rows),
        limited=tuple(metadata.limited[index] for index in requests),
        visible_runs=tuple(metadata.visible_runs[index] for index in requests),
        reads_prefix=tuple(metadata.reads_prefix[index] for index in requests),
        shadow_columns=tuple(metadata.shadow_columns[index] for index in requests),
    )


def page_rows_of(page_table: Tensor, owners: Sequence[int]) -> Tensor:
    """[N, max_pages] int32: the row of the page table of each sequence."""
    if tuple(owners) == tuple(range(len(page_table))):
        return page_table
    return page_table.index_select(0, upload(np.array(owners, np.int64), page_table.device))


def upload(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """A copy on the device that the host does not wait for; a view where the device is the host."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def _ranges(bounds: Sequence[tuple[int, int]]) -> Indices:
    """All numbers in half-open ranges, in order."""
    return np.concatenate(
        [np.empty(0, np.int64), *(np.arange(start, stop) for start, stop in bounds)]
    )
