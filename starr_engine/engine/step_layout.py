"""A step's rows on the host, and the bytes in which other ranks get them.

Letters: T query rows, R requests, S rows read through pages, P pages of the longest page table,
M rows with logits, K copies of C pages together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from starr_engine.attention.base import AttentionMetadata
from starr_engine.engine.canvas_cache import PageCopy
from starr_engine.engine.host_layout import visible_runs

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Upload = Callable[[NDArray[np.generic]], Tensor]

_SIZES: Final = "TRSPMKC"
_FIELDS: Final[tuple[tuple[str, type[np.signedinteger[Any]], tuple[str, ...]], ...]] = (
    ("input_ids", np.int64, ("T",)),
    ("positions", np.int64, ("T",)),
    ("slot_mapping", np.int64, ("T",)),
    ("read_slots", np.int64, ("S",)),
    ("logits_rows", np.int64, ("M",)),
    ("visible", np.int32, ("T",)),
    ("cu_query", np.int32, ("R+1",)),
    ("cu_read", np.int32, ("R+1",)),
    ("page_table", np.int32, ("R", "P")),
    ("shadow_lens", np.int32, ("R",)),
    ("shadow_columns", np.int32, ("R",)),
    ("limited", np.int32, ("R",)),
    ("prefix_reads", np.int32, ("R",)),
)
"""What travels: (name, dtype, shape); behind it the ends of the copies, [K], and their pages,
sources first, [2, C]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLayout:
    """What the forward of a step needs to know, as arrays; see ``AttentionMetadata``."""

    input_ids: Int64
    positions: Int64
    slot_mapping: Int64
    read_slots: Int64
    logits_rows: Int64
    visible: Int32
    cu_query: Int32
    cu_read: Int32
    page_table: Int32
    shadow_lens: Int32
    shadow_columns: Int32
    limited: Int32
    prefix_reads: Int32
    """[R] whether it reads the first rows of its pages without a gap."""

    def attention(self, upload: Upload) -> AttentionMetadata:
        """As backends get it, on the device that ``upload`` takes arrays to."""
        query_lens, paged_lens = np.diff(self.cu_query), np.diff(self.cu_read)
        fresh = paged_lens == 0
        read_lens = np.where(fresh, query_lens - self.shadow_lens, paged_lens)
        return AttentionMetadata(
            cu_query=upload(self.cu_query),
            cu_read=upload(self.cu_read),
            read_slots=upload(self.read_slots),
            slot_mapping=upload(self.slot_mapping),
            page_table=upload(self.page_table),
            query_lens=tuple(query_lens.tolist()),
            read_lens=tuple(read_lens.tolist()),
            fresh=tuple(fresh.tolist()),
            shadow_lens=tuple(self.shadow_lens.tolist()),
            shadow_columns=tuple(self.shadow_columns.tolist()),
            visible=upload(self.visible),
            limited=tuple((self.limited != 0).tolist()),
            visible_runs=visible_runs(self.visible, self.cu_query, self.shadow_lens, self.limited),
            reads_prefix=tuple((self.prefix_reads != 0).tolist()),
        )

    def pack(self, copies: Sequence[PageCopy]) -> bytes:
        """All of it and the pages to copy first, as one message."""
        sources = [page for copy in copies for page in copy.source]
        targets = [page for copy in copies for page in copy.target]
        sizes = {
            "T": len(self.input_ids),
            "R": len(self.shadow_lens),
            "S": len(self.read_slots),
            "P": self.page_table.shape[1],
            "M": len(self.logits_rows),
            "K": len(copies),
            "C": len(sources),
        }
        arrays = [np.array([sizes[letter] for letter in _SIZES], np.int64)]
        for name, dtype, shape in _FIELDS:
            array: NDArray[Any] = getattr(self, name)
            assert array.shape == _shape(shape, sizes), name
            assert array.dtype == dtype, name
            arrays.append(array)
        ends = np.cumsum([len(copy.source) for copy in copies], dtype=np.int64)
        arrays += [ends, np.array([sources, targets], np.int64)]
        return b"".join(array.tobytes() for array in arrays)


def unpack_step(message: bytes) -> tuple[StepLayout, tuple[PageCopy, ...]]:
    """What :meth:`StepLayout.pack` made a message of."""
    data = bytearray(message)  # torch takes writable arrays only
    header = np.frombuffer(data, np.int64, count=len(_SIZES)).tolist()
    sizes = dict(zip(_SIZES, header, strict=True))
    at = 8 * len(_SIZES)

    def take(dtype: type[np.signedinteger[Any]], shape: tuple[int, ...]) -> NDArray[Any]:
        nonlocal at
        array = np.frombuffer(data, dtype, count=prod(shape), offset=at).reshape(shape)
        at += array.nbytes
        return array

    fields = {name: take(dtype, _shape(shape, sizes)) for name, dtype, shape in _FIELDS}
    ends = take(np.int64, (sizes["K"],)).tolist()
    sources, targets = take(np.int64, (2, sizes["C"])).tolist()
    assert at == len(data), "a message of another version"
    copies = tuple(
        PageCopy(source=tuple(sources[start:stop]), target=tuple(targets[start:stop]))
        for start, stop in pairwise([0, *ends])
    )
    return StepLayout(**fields), copies


def _shape(letters: Sequence[str], sizes: dict[str, int]) -> tuple[int, ...]:
    return tuple(sizes["R"] + 1 if each == "R+1" else sizes[each] for each in letters)
