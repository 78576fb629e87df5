"""LLaDA a second time, from its description: numpy, float64, one dense sequence, no KV cache.

Shares no code with the package. Rotary positions are products of complex numbers: components i
and i + D/2 of a head are the real and imaginary part of one number, which is multiplied by
exp(1j * position * speed_i).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.torch import load_file

Array = npt.NDArray[np.float64]
Turned = npt.NDArray[np.complex128]
"""Rotated queries or keys."""


class LLaDAReference:
    """Logits of one sequence at a time."""

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, Array]) -> None:
        self.config = config
        self.weights = weights

    @classmethod
    def from_folder(cls, folder: Path, config: Mapping[str, Any]) -> LLaDAReference:
        """Read every safetensors file of ``folder``."""
        weights: dict[str, Array] = {}
        for path in sorted(folder.glob("*.safetensors")):
            # Through torch, because numpy has no bfloat16.
            weights |= {name: tensor.double().numpy() for name, tensor in load_file(path).items()}
        return cls(config, weights)

    def logits(
        self,
        token_ids: Sequence[int],
        positions: Sequence[int] | None = None,
        visible: npt.NDArray[np.bool_] | None = None,
    ) -> Array:
        """Logits [length, vocabulary]; positions default to 0, 1, 2, ..., all rows see all."""
        where = np.arange(len(token_ids)) if positions is None else np.asarray(positions)
        x = self.embed(token_ids)
        for layer in range(self.num_layers):
            query, key = self.query_key(layer, x, where)
            x = x + self.attend(layer, query, key, self.value(layer, x), visible)
            x = x + self.feed_forward(layer, x)
        return self.head(x)

    @property
    def num_layers(self) -> int:
        return int(self.config["n_layers"])

    def embed(self, token_ids: Sequence[int]) -> Array:
        """Rows [length, hidden] of the first layer."""
        return self._weight("wte")[np.asarray(token_ids, np.int64)]

    def query_key(
        self, layer: int, x: Array, positions: npt.NDArray[np.int64]
    ) -> tuple[Turned, Turned]:
        """Rotated queries and keys [rows, heads, head_dim / 2] of rows [rows, hidden]."""
        normed = self._norm(f"blocks.{layer}.attn_norm", x)
        query, key = (
            self._linear(f"blocks.{layer}.{name}", normed).reshape(len(x), -1, self._head_dim)
            for name in ("q_proj", "k_proj")
        )
        return self._turn(query, positions), self._turn(key, positions)

    def value(self, layer: int, x: Array) -> Array:
        """Values [rows, heads, head_dim] of rows [rows, hidden]."""
        normed = self._norm(f"blocks.{layer}.attn_norm", x)
        return self._linear(f"blocks.{layer}.v_proj", normed).reshape(len(x), -1, self._head_dim)

    def attend(
        self,
        layer: int,
        query: Turned,
        key: Turned,
        value: Array,
        visible: npt.NDArray[np.bool_] | None = None,
    ) -> Array:
        """What attention adds to rows [queries, hidden]; ``visible`` is [queries, keys]."""
        num_heads = query.shape[1]
        outputs = []
        for head in range(num_heads):
            shared = head * key.shape[1] // num_heads
            # The real part of a . conj(b) is the scalar product of the pairs.
            scores = (query[:, head] @ key[:, shared].conj().T).real / np.sqrt(self._head_dim)
            if visible is not None:
                scores = np.where(visible, scores, -np.inf)
            odds = np.exp(scores - scores.max(axis=1, keepdims=True))
            outputs.append(odds / odds.sum(axis=1, keepdims=True) @ value[:, shared])
        return self._linear(f"blocks.{layer}.attn_out", np.concatenate(outputs, axis=1))

    def feed_forward(self, layer: int, x: Array) -> Array:
        """What the feed-forward network adds to rows [rows, hidden]."""
        block = f"blocks.{layer}"
        normed = self._norm(f"{block}.ff_norm", x)
        gate = self._linear(f"{block}.ff_proj", normed)
        gate = gate / (1 + np.exp(-gate))
        return self._linear(f"{block}.ff_out", gate * self._linear(f"{block}.up_proj", normed))

    def head(self, x: Array) -> Array:
        """Logits [rows, vocabulary]."""
        x = self._norm("ln_f", x)
        if self.config["weight_tying"]:
            return x @ self._weight("wte").T
        return self._linear("ff_out", x)

    @property
    def _head_dim(self) -> int:
        return int(self.config["d_model"] // self.config["n_heads"])

    def _turn(self, heads: Array, positions: npt.NDArray[np.int64]) -> Turned:
        half = heads.shape[-1] // 2
        speed = float(self.config["rope_theta"]) ** (-np.arange(half) / half)
        turn: Turned = np.exp(1j * np.outer(positions, speed))[:, None]
        turned: Turned = turn * (heads[..., :half] + 1j * heads[..., half:])
        return turned

    def _norm(self, name: str, x: Array) -> Array:
        length = np.sqrt((x**2).mean(axis=1, keepdims=True) + self.config["rms_norm_eps"])
        normed: Array = x / length * self._weight(name) + self._bias(name)
        return normed

    def _linear(self, name: str, x: Array) -> Array:
        return x @ self._weight(name).T + self._bias(name)

    def _weight(self, name: str) -> Array:
        return self.weights[f"model.transformer.{name}.weight"]

    def _bias(self, name: str) -> Array | float:
        return self.weights.get(f"model.transformer.{name}.bias", 0.0)
