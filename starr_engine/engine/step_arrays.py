"""The arrays of a step: one piece of memory here, one message to other ranks.

Letters: T query rows, R requests, S rows read through pages, P pages of the longest page table,
M rows with logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import torch
from torch import Tensor

from starr_engine.attention.base import AttentionMetadata
from starr_engine.attention.windows import RowLayout
from starr_engine.engine.canvas_cache import PageCopy
from starr_engine.engine.host_layout import visible_runs
from starr_engine.engine.packed_arrays import PackedArrays

_HEADER: Final = 7
"""Numbers in front of a message: the five sizes, copies, and pages copied."""


@dataclass(frozen=True, slots=True)
class StepSizes:
    """How large a step is; see the module's letters."""

    num_rows: int
    num_requests: int
    num_read_rows: int
    max_pages: int
    num_scored: int


class StepArrays:
    """What a step needs to know on the device; see ``StepBatch`` and ``AttentionMetadata``.

    Args:
        sizes: Of the step.
        device: Of the model.
        is_ahead: Whether it has rows of requests whose last step is not known; see
            :mod:`starr_engine.engine.carried_rows`.
        num_facts: Integers behind the arrays, see ``StepBatch.facts``; no part of a message.
    """

    def __init__(
        self,
        sizes: StepSizes,
        device: torch.device,
        *,
        is_ahead: bool = False,
        num_facts: int = 0,
    ) -> None:
        rows, requests = (sizes.num_rows,), (sizes.num_requests,)
        bounds, scores = (sizes.num_requests + 1,), (sizes.num_scored,)
        self.sizes = sizes
        self.is_ahead = is_ahead
        ahead = {"row_sources": rows, "row_owners": rows}
        self.packed = PackedArrays(
            {
                "input_ids": (rows, torch.int64),
                "positions": (rows, torch.int64),
                "slot_mapping": (rows, torch.int64),
                "read_slots": ((sizes.num_read_rows,), torch.int64),
                "logits_rows": (scores, torch.int64),
                "cu_query": (bounds, torch.int32),
                "cu_read": (bounds, torch.int32),
                "page_table": ((sizes.num_requests, sizes.max_pages), torch.int32),
                "visible": (rows, torch.int32),
                "shadow_lens": (requests, torch.int32),
                "shadow_columns": (requests, torch.int32),
                "limited": (requests, torch.int32),
                "reads_prefix": (requests, torch.int32),
                "score_request": (scores, torch.int32),
                "score_positions": (scores, torch.int32),
            }
            | {name: (shape, torch.int64) for name, shape in ahead.items() if is_ahead},
            device,
            tail=num_facts,
        )

    def rows(self) -> RowLayout:
        """What attention must know of rows, on the host."""
        packed = self.packed
        return RowLayout(
            cu_query=packed.int32("cu_query"),
            cu_read=packed.int32("cu_read"),
            read_slots=packed.int64("read_slots"),
            visible=packed.int32("visible"),
            shadow_lens=packed.int32("shadow_lens"),
            shadow_columns=packed.int32("shadow_columns"),
            limited=packed.int32("limited"),
        )

    def attention(self, rows: RowLayout, tensors: Mapping[str, Tensor]) -> AttentionMetadata:
        """As backends get it.

        Args:
            rows: Those of the step, or what a window leaves of them.
            tensors: What was uploaded.
        """
        query_lens, paged_lens = np.diff(rows.cu_query), np.diff(rows.cu_read)
        fresh = paged_lens == 0
        read_lens = np.where(fresh, query_lens - rows.shadow_lens, paged_lens)
        return AttentionMetadata(
            cu_query=tensors["cu_query"],
            cu_read=tensors["cu_read"],
            read_slots=tensors["read_slots"],
            slot_mapping=tensors["slot_mapping"],
            page_table=tensors["page_table"],
            query_lens=tuple(query_lens.tolist()),
            read_lens=tuple(read_lens.tolist()),
            fresh=tuple(fresh.tolist()),
            shadow_lens=tuple(rows.shadow_lens.tolist()),
            shadow_columns=tuple(rows.shadow_columns.tolist()),
            visible=tensors["visible"],
            limited=tuple((rows.limited != 0).tolist()),
            visible_runs=visible_runs(rows.visible, rows.cu_query, rows.shadow_lens, rows.limited),
            reads_prefix=self._reads_prefix(rows),
        )

    def _reads_prefix(self, rows: RowLayout) -> tuple[bool, ...]:
        """As ``AttentionMetadata`` has it; what a window has cut off is missed at the front."""
        is_whole = np.diff(rows.cu_read) == np.diff(self.packed.int32("cu_read"))
        flags: list[bool] = (is_whole & (self.packed.int32("reads_prefix") != 0)).tolist()
        return tuple(flags)

    def message(self, copies: Sequence[PageCopy]) -> bytes:
        """All arrays, filled, and the pages to copy before."""
        sources = [page for copy in copies for page in copy.source]
        targets = [page for copy in copies for page in copy.target]
        ends = np.cumsum([len(copy.source) for copy in copies], dtype=np.int64).tolist()
        header = [*astuple(self.sizes), len(ends), len(sources), *ends, *sources, *targets]
        return np.array(header, np.int64).tobytes() + self.packed.to_bytes()


def read_message(message: bytes, device: torch.device) -> tuple[StepArrays, tuple[PageCopy, ...]]:
    """What :meth:`StepArrays.message` made a message of."""
    *sizes, num_copies, num_pages = np.frombuffer(message, np.int64, count=_HEADER).tolist()
    length = _HEADER + num_copies + 2 * num_pages
    numbers = np.frombuffer(message, np.int64, count=length)[_HEADER:]
    ends, sources, targets = (
        part.tolist() for part in np.split(numbers, [num_copies, num_copies + num_pages])
    )
    copies = tuple(
        PageCopy(source=tuple(sources[start:stop]), target=tuple(targets[start:stop]))
        for start, stop in pairwise([0, *ends])
    )
    arrays = StepArrays(StepSizes(*sizes), device)
    arrays.packed.take_bytes(memoryview(message)[8 * length :])
    return arrays, copies
