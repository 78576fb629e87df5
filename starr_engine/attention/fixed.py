"""Attention over tensors that stay where they are, for steps that are recorded once and replayed.

A recorded step is a grid: N sequences of Q rows each, whatever a step needs of them. Its shapes,
addresses and host arguments are those of the recording; what differs from step to step (page
tables, lengths) is read on the device. Letters as in ``attention/base.py``; N sequences, Q rows
each, W pages of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from starr_engine.attention.base import AttentionBackend, AttentionShape, StepAttention


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedLayout:
    """Where a recorded step finds what it reads; the values change, the tensors never."""

    num_sequences: int
    """N, those of padding included: they read the first row of the reserved page 0."""

    rows_each: int
    """Q. Rows beyond a sequence's own read what its own read, and are not looked at."""

    page_table: Tensor
    """[N, W] int32, padded with the reserved page 0."""

    key_lens: Tensor
    """[N] int32, rows of its pages that a sequence reads, from the first one; at least 1."""

    cu_query: Tensor
    """[N+1] int32: multiples of Q."""

    cu_keys: Tensor
    """[N+1] int32: ``key_lens`` added up."""


class FixedAttention(StepAttention, Protocol):
    """Attention of a recorded step."""

    def prepare(self, key_lens: NDArray[np.int32], page_table: NDArray[np.int32]) -> None:
        """What the host has to do before the recording, and before every replay.

        Args:
            key_lens: [N], of the layout, on the host.
            page_table: [N, W], likewise.
        """
        ...


class RecordableBackend(Protocol):
    """A backend that can be part of a recorded step."""

    @property
    def copies_table(self) -> bool:
        """Whether every page of the table is copied, read or not, so that tables should be short.

        The host then keeps recordings for several widths of them.
        """
        ...

    def fixed(self, layout: FixedLayout) -> FixedAttention:
        """Attention of the steps of one layout; kept as long as their recording."""
        ...


def recordable(backend: AttentionBackend) -> RecordableBackend | None:
    """The backend itself if it can be part of a recorded step."""
    return cast(RecordableBackend, backend) if hasattr(backend, "fixed") else None


class PaddedAttention:
    """``scaled_dot_product_attention`` over copies of whole page tables, and a mask of lengths.

    Query heads that share a key head become rows of one head, so that no kernel without grouped
    heads has to copy keys.

    Args:
        shape: Of the layers.
        layout: Of the steps.
    """

    def __init__(self, shape: AttentionShape, layout: FixedLayout) -> None:
        self._shape = shape
        self._layout = layout
        num_keys = layout.page_table.shape[1] * shape.page_size
        self._columns = torch.arange(num_keys, device=layout.page_table.device)

    def prepare(self, key_lens: NDArray[np.int32], page_table: NDArray[np.int32]) -> None:
        """Nothing: all of it is read on the device."""
        del key_lens, page_table

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, k_cache: Tensor, v_cache: Tensor
    ) -> Tensor:
        """See ``StepAttention``."""
        del key, value
        shape, layout = self._shape, self._layout
        num_kv_heads, head_dim = shape.num_kv_heads, shape.head_dim
        group = shape.num_heads // num_kv_heads
        grid = query.view(layout.num_sequences, layout.rows_each, num_kv_heads, group, head_dim)
        # A row per query head: [N, K, Q * group, D].
        rows = grid.permute(0, 2, 1, 3, 4).reshape(layout.num_sequences, num_kv_heads, -1, head_dim)
        seen = self._columns < layout.key_lens[:, None]
        mixed = scaled_dot_product_attention(
            rows, self._keys(k_cache), self._keys(v_cache), attn_mask=seen[:, None, None, :]
        )
        grid = mixed.view(
            layout.num_sequences, num_kv_heads, layout.rows_each, group, head_dim
        ).permute(0, 2, 1, 3, 4)
        return grid.reshape(query.shape)

    def _keys(self, cache: Tensor) -> Tensor:
        """All rows of the table's pages: [N, K, W * G, D]."""
        pages = cache.index_select(0, self._layout.page_table.flatten())
        rows = pages.view(self._layout.num_sequences, -1, *cache.shape[2:])
        return rows.transpose(1, 2)
