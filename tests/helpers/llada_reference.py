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
        x = self._weight("wte")[np.asarray(token_ids)]
        for index in range(self.config["n_layers"]):
            x = x + self._attention(f"blocks.{index}", x, where, visible)
            x = x + self._feed_forward(f"blocks.{index}", x)
        x = self._norm("ln_f", x)
        if self.config["weight_tying"]:
            return x @ self._weight("wte").T
        return self._linear("ff_out", x)

    def _attention(
        self,
        block: str,
        x: Array,
        positions: npt.NDArray[np.int64],
        visible: npt.NDArray[np.bool_] | None,
    ) -> Array:
        num_heads = self.config["n_heads"]
        head_dim = self.config["d_model"] // num_heads
        normed = self._norm(f"{block}.attn_norm", x)
        queries = self._linear(f"{block}.q_proj", normed).reshape(len(x), -1, head_dim)
        keys = self._linear(f"{block}.k_proj", normed).reshape(len(x), -1, head_dim)
        values = self._linear(f"{block}.v_proj", normed).reshape(len(x), -1, head_dim)
        outputs = []
        for head in range(num_heads):
            shared = head * keys.shape[1] // num_heads
            query = self._turn(queries[:, head], positions)
            key = self._turn(keys[:, shared], positions)
            # The real part of a . conj(b) is the scalar product of the pairs.
            scores = (query @ key.conj().T).real / np.sqrt(head_dim)
            if visible is not None:
                scores = np.where(visible, scores, -np.inf)
            odds = np.exp(scores - scores.max(axis=1, keepdims=True))
            outputs.append(odds / odds.sum(axis=1, keepdims=True) @ values[:, shared])
        return self._linear(f"{block}.attn_out", np.concatenate(outputs, axis=1))

    def _turn(self, head: Array, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.complex128]:
        half = head.shape[1] // 2
        speed = float(self.config["rope_theta"]) ** (-np.arange(half) / half)
        turn: npt.NDArray[np.complex128] = np.exp(1j * np.outer(positions, speed))
        turn *= head[:, :half] + 1j * head[:, half:]
        return turn

    def _feed_forward(self, block: str, x: Array) -> Array:
        normed = self._norm(f"{block}.ff_norm", x)
        gate = self._linear(f"{block}.ff_proj", normed)
        gate = gate / (1 + np.exp(-gate))
        return self._linear(f"{block}.ff_out", gate * self._linear(f"{block}.up_proj", normed))

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
