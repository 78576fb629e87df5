"""The pool's tensor: keys and values of all layers, in pages."""

from __future__ import annotations

import torch
from torch import Tensor

from starr_engine import ops


class KVPool:
    """Pages of keys (rotated) and values, ``[layer, 2, page, page_size, kv_head, head_dim]``.

    Holds no bookkeeping: which page belongs to whom is known to ``_core.PagePool`` alone.

    Args:
        num_layers: Of the model.
        num_pages: With the reserved page 0.
        page_size: Rows of a page.
        num_kv_heads: Of the model.
        head_dim: Of the model.
        dtype: Of keys and values.
        device: Where the pages live.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        num_pages: int,
        page_size: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.pages = torch.zeros(
            (num_layers, 2, num_pages, page_size, num_kv_heads, head_dim),
            dtype=dtype,
            device=device,
        )

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer, each ``[page, page_size, kv_head, head_dim]``."""
        return self.pages[index, 0], self.pages[index, 1]

    def store(self, index: int, key: Tensor, value: Tensor, slot_mapping: Tensor) -> None:
        """Write rows of one layer to their slots.

        Args:
            index: Layer.
            key: [T, kv_head, head_dim].
            value: [T, kv_head, head_dim].
            slot_mapping: [T] int64; negative for rows that are not kept.
        """
        keys, values = self.layer(index)
        ops.store_kv(key, value, keys, values, slot_mapping)


def bytes_per_page(
    *, num_layers: int, page_size: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype
) -> int:
    """Memory of one page over all layers."""
    return num_layers * 2 * page_size * num_kv_heads * head_dim * dtype.itemsize
