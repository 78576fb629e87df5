"""The pool's tensors: keys and values of all layers, in pages."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from starr_engine import ops

HeadShape = tuple[int, int]
"""Key/value heads of a layer, and their size."""


class KVPool:
    """Pages of keys (rotated) and values, ``[layer, 2, page, page_size, kv_head, head_dim]``.

    Layers whose heads differ have such a tensor for each shape. Holds no bookkeeping: which page
    belongs to whom is known to ``_core.PagePool`` alone, and a page is one row of every tensor.

    Args:
        num_layers: Of the model.
        num_pages: With the reserved page 0.
        page_size: Rows of a page.
        num_kv_heads: Of every layer.
        head_dim: Of every layer.
        dtype: Of keys and values.
        device: Where the pages live.
        layer_shapes: Of every layer, in place of ``num_kv_heads`` and ``head_dim``; empty if all
            are alike.
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
        layer_shapes: Sequence[HeadShape] = (),
    ) -> None:
        shapes = list(layer_shapes) or [(num_kv_heads, head_dim)] * num_layers
        kinds = list(dict.fromkeys(shapes))
        self._tensors = [
            torch.zeros(
                (shapes.count(kind), 2, num_pages, page_size, *kind), dtype=dtype, device=device
            )
            for kind in kinds
        ]
        places = [
            (self._tensors[kinds.index(shape)], shapes[:layer].count(shape))
            for layer, shape in enumerate(shapes)
        ]
        # Made once: every layer of every step asks for its own twice.
        self._layers = [(pages[place, 0], pages[place, 1]) for pages, place in places]

    @property
    def pages(self) -> Tensor:
        """All keys and values of a model whose layers are alike."""
        assert len(self._tensors) == 1, "layers differ: take them one by one"
        return self._tensors[0]

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer, each ``[page, page_size, kv_head, head_dim]``."""
        return self._layers[index]

    def copy_pages(self, source: tuple[int, ...], target: tuple[int, ...]) -> None:
        """Copy whole pages, each to its partner."""
        for pages in self._tensors:
            ops.copy_pages(pages, source, target)

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
    """Memory of one page over all layers, which are alike."""
    return num_layers * 2 * page_size * num_kv_heads * head_dim * dtype.itemsize
