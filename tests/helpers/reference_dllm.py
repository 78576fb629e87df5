"""dLLM-Cache a second time (arXiv 2506.06295): dense arrays, one request, one step after another.

Four features of every row are kept in every layer: key, value, and what attention and the
feed-forward network added to it. Rows are the prompt's and the response's, which is all behind
them. Steps are counted over the request, not over a block.

-   The prompt's features are computed at every ``prompt_interval``-th step, else all four are
    reused.
-   The response's are computed at every ``response_interval``-th step. In between, layer 0 is
    computed for the whole response, which carries the new tokens in. Every later layer computes
    the values of the whole response and compares each with that of the step before; only the rows
    whose values turned most get a new key, attention and feed-forward. The others keep the old
    ones, although their values are new.

Rows whose token has changed are not forced among the chosen: their new embedding runs through
layer 0 and through all values, which makes them turn most unless others turn more.

What the paper's code leaves open is settled so: at least one row is chosen, however small the
ratio; the row in front wins a tie. Its code also computes the prompt's rows in layer 0, which is
left out because nothing reads them: keys and values of layer 0 depend on a row's token alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.helpers.llada_reference import Array, LLaDAReference, Turned
from tests.helpers.reference_caches import spread


@dataclass(frozen=True)
class Shadows:
    """Rows that see the others, are seen by none of them, and are computed anew at each step."""

    tokens: Sequence[int]
    positions: NDArray[np.int64]
    visible: NDArray[np.bool_]
    """[shadows, rows + shadows]: what each sees, the shadow rows last."""


class FeatureForward:
    """The forwards of one request; called once per step with the canvas.

    Args:
        model: The dense twin.
        args: ``prompt_interval``, ``response_interval`` and ``ratio``.
        prompt_len: Rows in front of the response.
    """

    def __init__(self, model: LLaDAReference, args: Mapping[str, Any], prompt_len: int) -> None:
        self.model, self.args, self.prompt_len = model, args, prompt_len
        self.keys: list[Turned] = []
        self.values: list[Array] = []
        self.attended: list[Array] = []
        self.fed: list[Array] = []
        self.step = 0
        self.computed_rows = 0
        """Over all steps; a row counts as its share of the layers, a step's sum rounded up."""

        self.narrowest = np.inf
        """Smallest difference in similarity between a row just chosen and one just not.

        Where it is near float32's precision, an engine may rightly choose otherwise.
        """

    def __call__(self, canvas: Sequence[int], shadows: Shadows | None = None) -> Array:
        """Logits [len(canvas), vocabulary] of one step; NaN for a prompt not computed.

        Those of shadow rows stand behind them.
        """
        model, num_rows = self.model, len(canvas)
        everything = np.arange(num_rows)
        response = everything[self.prompt_len :]
        if self.step == 0:
            self._make(num_rows)
        prompt_due = self.step % self.args["prompt_interval"] == 0
        response_due = self.step % self.args["response_interval"] == 0
        rows = everything if prompt_due else response
        x = model.embed(canvas)
        s = model.embed([] if shadows is None else shadows.tokens)
        row_layers = 0
        for layer in range(model.num_layers):
            full = rows
            before = self.values[layer][response]
            self.values[layer][rows] = model.value(layer, x[rows])
            if layer > 0 and not response_due:
                chosen = response[self._most_turned(before, self.values[layer][response])]
                full = np.concatenate([rows[rows < self.prompt_len], chosen])
            row_layers += len(full)
            query, self.keys[layer][full] = model.query_key(layer, x[full], full)
            self.attended[layer][full] = model.attend(
                layer, query, self.keys[layer], self.values[layer]
            )
            x = x + self.attended[layer]
            self.fed[layer][full] = model.feed_forward(layer, x[full])
            x = x + self.fed[layer]
            if shadows is not None:
                s = self._shadow_layer(layer, s, shadows)
        self.step += 1
        self.computed_rows += -(-row_layers // model.num_layers)
        return np.concatenate([spread(model.head(x[rows]), rows, num_rows), model.head(s)])

    def _shadow_layer(self, layer: int, s: Array, shadows: Shadows) -> Array:
        query, key = self.model.query_key(layer, s, shadows.positions)
        keys = np.concatenate([self.keys[layer], key])
        values = np.concatenate([self.values[layer], self.model.value(layer, s)])
        s = s + self.model.attend(layer, query, keys, values, shadows.visible)
        return s + self.model.feed_forward(layer, s)

    def _make(self, num_rows: int) -> None:
        hidden = self.model.embed([0])
        _, key = self.model.query_key(0, hidden, np.zeros(1, np.int64))
        value = self.model.value(0, hidden)
        for _ in range(self.model.num_layers):
            self.keys.append(np.full((num_rows, *key.shape[1:]), np.nan, np.complex128))
            self.values.append(np.full((num_rows, *value.shape[1:]), np.nan))
            self.attended.append(np.full((num_rows, hidden.shape[1]), np.nan))
            self.fed.append(np.full((num_rows, hidden.shape[1]), np.nan))

    def _most_turned(self, before: Array, after: Array) -> NDArray[np.int64]:
        """Ascending indices of the rows [rows, heads, head_dim] with the smallest cosines."""
        count = max(1, int(self.args["ratio"] * len(before)))
        cosines = [
            float(a.ravel() @ b.ravel() / (np.linalg.norm(a) * np.linalg.norm(b)))
            for a, b in zip(before, after, strict=True)
        ]
        order = sorted(range(len(cosines)), key=lambda i: (cosines[i], i))
        if count < len(order):
            gap = cosines[order[count]] - cosines[order[count - 1]]
            self.narrowest = min(self.narrowest, gap)
        return np.array(sorted(order[:count]))
