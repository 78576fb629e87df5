"""What layers have added to rows, in pages beside those of keys and values."""

from __future__ import annotations

import torch
from torch import Tensor

from starr_engine.cache.pool import KVPool
from starr_engine.errors import CapacityError


class FeaturePool:
    """Attention and feed-forward outputs, ``[layer - 1, 2, page, page_size, hidden_size]``.

    A row has one slot for all that is kept of it, so that pages are those of the keys and values.
    The first layer has none: it is computed for every row that a step takes in.

    Args:
        kv_pool: Has the same pages.
        hidden_size: Of the model.

    Raises:
        CapacityError: If they do not fit into the memory of the device; says how large they are.
    """

    def __init__(self, kv_pool: KVPool, hidden_size: int) -> None:
        keys = kv_pool.pages
        num_layers, _, num_pages, page_size = keys.shape[:4]
        shape = (num_layers - 1, 2, num_pages, page_size, hidden_size)
        self.num_bytes = num_pages * feature_bytes_per_page(
            num_layers=num_layers, page_size=page_size, hidden_size=hidden_size, dtype=keys.dtype
        )
        """Memory of all pages."""

        try:
            self._pages = torch.zeros(shape, dtype=keys.dtype, device=keys.device)
        except RuntimeError as error:  # torch's, on every device
            held = keys.numel() * keys.dtype.itemsize
            raise CapacityError(
                f"to keep what layers add to rows takes {self.num_bytes} bytes for {num_pages} "
                f"pages of {page_size} rows, beside {held} of keys and values; {keys.device} has "
                "no room for them; lower num_pages or kv_memory, or use cache='dual'"
            ) from error

    @property
    def pages(self) -> Tensor:
        """All of them."""
        return self._pages

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Attention and feed-forward outputs of a layer, each ``[page, page_size, hidden_size]``.

        Args:
            index: From 1.
        """
        assert index > 0
        return self._pages[index - 1, 0], self._pages[index - 1, 1]


def feature_bytes_per_page(
    *, num_layers: int, page_size: int, hidden_size: int, dtype: torch.dtype
) -> int:
    """Memory that features add to one page over all layers but the first."""
    return (num_layers - 1) * 2 * page_size * hidden_size * dtype.itemsize
