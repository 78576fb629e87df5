"""SDAR a second time, from its description: numpy, float64, one dense sequence, no KV cache.

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
Visible = npt.NDArray[np.bool_]


def block_causal(positions: Sequence[int], block_length: int) -> Visible:
    """[length, length]: whether a row sees a column, no block being later than the row's own."""
    block = np.asarray(positions) // block_length
    visible: Visible = block[None, :] <= block[:, None]
    return visible


class SDARReference:
    """Logits of one sequence at a time.

    Args:
        config: Of the checkpoint, with ``block_size``.
        weights: Of the checkpoint, by published name.
    """

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, Array]) -> None:
        self.config = config
        self.weights = weights

    @classmethod
    def from_folder(cls, folder: Path, config: Mapping[str, Any]) -> SDARReference:
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
        visible: Visible | None = None,
    ) -> Array:
        """Logits [length, vocabulary].

        Args:
            token_ids: Masks included.
            positions: Default: 0, 1, 2, ...
            visible: [length, length]; default: block-causal by ``positions``.
        """
        where = range(len(token_ids)) if positions is None else positions
        if visible is None:
            visible = block_causal(where, self.config["block_size"])
        x = self.weights["model.embed_tokens.weight"][np.asarray(token_ids)]
        for index in range(self.config["num_hidden_layers"]):
            layer = f"model.layers.{index}"
            x = x + self._attention(layer, x, np.asarray(where), visible)
            x = x + self._feed_forward(layer, x)
        x = self._norm("model.norm", x)
        tied = self.config["tie_word_embeddings"]
        return x @ self.weights["model.embed_tokens.weight" if tied else "lm_head.weight"].T

    def _attention(
        self, layer: str, x: Array, positions: npt.NDArray[np.int64], visible: Visible
    ) -> Array:
        num_heads, head_dim = self.config["num_attention_heads"], self.config["head_dim"]
        part = f"{layer}.self_attn"
        normed = self._norm(f"{layer}.input_layernorm", x)
        queries = self._linear(f"{part}.q_proj", normed).reshape(len(x), -1, head_dim)
        keys = self._linear(f"{part}.k_proj", normed).reshape(len(x), -1, head_dim)
        values = self._linear(f"{part}.v_proj", normed).reshape(len(x), -1, head_dim)
        outputs = []
        for head in range(num_heads):
            shared = head * keys.shape[1] // num_heads
            query = self._turn(self._norm(f"{part}.q_norm", queries[:, head]), positions)
            key = self._turn(self._norm(f"{part}.k_norm", keys[:, shared]), positions)
            # The real part of a . conj(b) is the scalar product of the pairs.
            scores = (query @ key.conj().T).real / np.sqrt(head_dim)
            scores = np.where(visible, scores, -np.inf)
            odds = np.exp(scores - scores.max(axis=1, keepdims=True))
            outputs.append(odds / odds.sum(axis=1, keepdims=True) @ values[:, shared])
        return self._linear(f"{part}.o_proj", np.concatenate(outputs, axis=1))

    def _turn(self, head: Array, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.complex128]:
        half = head.shape[1] // 2
        speed = float(self.config["rope_theta"]) ** (-np.arange(half) / half)
        turn: npt.NDArray[np.complex128] = np.exp(1j * np.outer(positions, speed))
        turn *= head[:, :half] + 1j * head[:, half:]
        return turn

    def _feed_forward(self, layer: str, x: Array) -> Array:
        normed = self._norm(f"{layer}.post_attention_layernorm", x)
        gate = self._linear(f"{layer}.mlp.gate_proj", normed)
        gate = gate / (1 + np.exp(-gate))
        up = self._linear(f"{layer}.mlp.up_proj", normed)
        return self._linear(f"{layer}.mlp.down_proj", gate * up)

    def _norm(self, name: str, x: Array) -> Array:
        length = np.sqrt((x**2).mean(axis=1, keepdims=True) + self.config["rms_norm_eps"])
        normed: Array = x / length * self.weights[f"{name}.weight"]
        return normed

    def _linear(self, name: str, x: Array) -> Array:
        return x @ self.weights[f"{name}.weight"].T + self.weights.get(f"{name}.bias", 0.0)
