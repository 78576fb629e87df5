"""The only place where rows of one request meet, as a model sees it."""

from collections.abc import Callable

from torch import Tensor

LayerAttention = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""``(layer_index, query [T, N, D], key [T, K, D], value [T, K, D]) -> [T, N, D]``.

T query rows of the step, N query heads, K key/value heads, D head size. Keys come with rotary
positions applied. A model sees nothing else of requests, pages and masks.
"""
