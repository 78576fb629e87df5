"""One layer of a model, cut where a cache may step in.

Letters: T rows, N query heads, K key/value heads, D head size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from starr_engine.layers.rotary import Rotation


class TransformerLayer(nn.Module, ABC):
    """Pre-norm attention and a pre-norm feed-forward part, each added to the rows.

    Every part is computed row by row, so that a caller may compute it for some rows and take the
    rest from an earlier step; rows meet only in attention, between :meth:`query_key` and
    :meth:`attention_output`, and that is the caller's.
    """

    @abstractmethod
    def normed(self, rows: Tensor) -> Tensor:
        """What attention's projections see of the rows: [T, hidden_size], same shape."""

    @abstractmethod
    def query_key(self, normed: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor]:
        """Queries [T, N, D] and keys [T, K, D] of normed rows, turned by their positions."""

    @abstractmethod
    def value(self, normed: Tensor) -> Tensor:
        """Values [T, K, D] of normed rows."""

    @abstractmethod
    def attention_output(self, mixed: Tensor) -> Tensor:
        """What attention adds to the rows: mixed values [T, N, D] -> [T, hidden_size]."""

    @abstractmethod
    def feed_forward(self, rows: Tensor) -> Tensor:
        """What the second part adds to the rows, its norm included: [T, hidden_size]."""

    def finished(self, rows: Tensor, is_canvas: Tensor | None) -> Tensor:
        """What the next layer gets once both parts are added: [T, hidden_size], mostly as it is.

        Args:
            rows: [T, hidden_size].
            is_canvas: [T] bool, whether a row is one of the active block; None for a model to
                which these are rows like any other.
        """
        del is_canvas
        return rows


def split_heads(rows: Tensor, head_dim: int) -> Tensor:
    """[T, heads * D] -> [T, heads, D], a view."""
    num_rows, size = rows.shape
    return rows.view(num_rows, size // head_dim, head_dim)
