"""One layer of a model, cut where a cache may step in.

Letters: T rows, N query heads, K key/value heads, D head size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from starr_engine.errors import ConfigError
from starr_engine.layers.ranks import Ranks
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

    def split(self, ranks: Ranks) -> None:
        """Keep one rank's heads and its share of the feed-forward part.

        Queries, keys, values and mixed values are those of its heads from then on; what the two
        parts add to the rows is whole, and the same on all ranks.

        Raises:
            ConfigError: If layers of this kind cannot be split; the layer is as before.
        """
        raise ConfigError(
            f"{type(self).__name__} does not say how it is split over "
            f"tensor_parallel_size={ranks.count} ranks; use tensor_parallel_size=1"
        )


def split_heads(rows: Tensor, head_dim: int) -> Tensor:
    """[T, heads * D] -> [T, heads, D], a view."""
    num_rows, size = rows.shape
    return rows.view(num_rows, size // head_dim, head_dim)


def head_rows(ranks: Ranks, projection: Tensor, head_dim: int) -> tuple[int, int]:
    """First and end of the rows of a projection [heads * D, size] that make a rank's heads."""
    first, stop = ranks.heads(len(projection) // head_dim)
    return first * head_dim, stop * head_dim
