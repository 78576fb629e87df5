"""LLaDA2 a second time, from its description: numpy, float64, one dense sequence, row by row.

Shares no code with the package. Every row asks its experts one after the other; rotary positions
are products of complex numbers, as in ``sdar_reference``, of the first components of a head alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.torch import load_file

from tests.helpers.sdar_reference import Array, Visible, block_causal


class LLaDA2Reference:
    """Logits of one sequence at a time.

    Args:
        config: Of the checkpoint, with ``block_length``.
        weights: Of the checkpoint, by published name.
    """

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, Array]) -> None:
        self.config = config
        self.weights = weights

    @classmethod
    def from_folder(cls, folder: Path, config: Mapping[str, Any]) -> LLaDA2Reference:
        """Read every safetensors file of ``folder``."""
        weights: dict[str, Array] = {}
        for path in sorted(folder.glob("*.safetensors")):
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
        where = np.arange(len(token_ids)) if positions is None else np.asarray(positions)
        if visible is None:
            visible = block_causal(where.tolist(), self.config["block_length"])
        x = self.weights["model.word_embeddings.weight"][np.asarray(token_ids)]
        for index in range(self.config["num_hidden_layers"]):
            layer = f"model.layers.{index}"
            x = x + self._attention(f"{layer}.attention", self._norm(f"{layer}.input_layernorm", x),
                                    where, visible)  # fmt: skip
            normed = self._norm(f"{layer}.post_attention_layernorm", x)
            dense = index < self.config["first_k_dense_replace"]
            x = x + (self._gated(f"{layer}.mlp", normed) if dense else self._mixture(layer, normed))
        x = self._norm("model.norm", x)
        tied = self.config["tie_word_embeddings"]
        return x @ self.weights["model.word_embeddings.weight" if tied else "lm_head.weight"].T

    def _attention(
        self, part: str, x: Array, positions: npt.NDArray[np.int64], visible: Visible
    ) -> Array:
        num_heads, num_kv = self.config["num_attention_heads"], self.config["num_key_value_heads"]
        head_dim = self.config["head_dim"]
        # Of each row first all queries, then all keys, then all values.
        fused = self._linear(f"{part}.query_key_value", x).reshape(len(x), -1, head_dim)
        outputs = []
        for head in range(num_heads):
            shared = num_heads + head * num_kv // num_heads
            query, key, value = fused[:, head], fused[:, shared], fused[:, shared + num_kv]
            if self.config.get("use_qk_norm", True):
                query = self._norm(f"{part}.query_layernorm", query)
                key = self._norm(f"{part}.key_layernorm", key)
            query, key = self._turn(query, positions), self._turn(key, positions)
            scores = np.where(visible, query @ key.T / np.sqrt(head_dim), -np.inf)
            odds = np.exp(scores - scores.max(axis=1, keepdims=True))
            outputs.append(odds / odds.sum(axis=1, keepdims=True) @ value)
        return self._linear(f"{part}.dense", np.concatenate(outputs, axis=1))

    def _turn(self, head: Array, positions: npt.NDArray[np.int64]) -> Array:
        turning = int(self.config["head_dim"] * self.config["partial_rotary_factor"])
        half = turning // 2
        speed = float(self.config["rope_theta"]) ** (-np.arange(half) / half)
        pairs = head[:, :half] + 1j * head[:, half:turning]
        pairs = pairs * np.exp(1j * np.outer(positions, speed))
        return np.concatenate([pairs.real, pairs.imag, head[:, turning:]], axis=1)

    def _mixture(self, layer: str, x: Array) -> Array:
        mlp = f"{layer}.mlp"
        out = self._gated(f"{mlp}.shared_experts", x)
        scores = 1 / (1 + np.exp(-self._linear(f"{mlp}.gate", x)))
        biased = scores + self.weights[f"{mlp}.gate.expert_bias"]
        for row in range(len(x)):
            chosen = self.choose(biased[row])
            weight = scores[row, chosen]
            if len(chosen) > 1:
                weight = weight / weight.sum()
            for expert, share in zip(chosen, weight * self.config["routed_scaling_factor"],
                                     strict=True):  # fmt: skip
                out[row] += share * self._gated(f"{mlp}.experts.{expert}", x[row])
        return out

    def choose(self, biased: Array) -> list[int]:
        """Experts of a row by its biased scores [num_experts]: the best of the best groups."""
        size = len(biased) // self.config["n_group"]
        groups = [range(at, at + size) for at in range(0, len(biased), size)]
        best_groups = sorted(groups, key=lambda group: -sum(sorted(biased[list(group)])[-2:]))
        allowed = [e for group in best_groups[: self.config["topk_group"]] for e in group]
        best = sorted(allowed, key=lambda expert: -biased[expert])
        return best[: self.config["num_experts_per_tok"]]

    def _gated(self, prefix: str, x: Array) -> Array:
        gate = self._linear(f"{prefix}.gate_proj", x)
        gate = gate / (1 + np.exp(-gate))
        return self._linear(f"{prefix}.down_proj", gate * self._linear(f"{prefix}.up_proj", x))

    def _norm(self, name: str, x: Array) -> Array:
        length = np.sqrt((x**2).mean(axis=-1, keepdims=True) + self.config["rms_norm_eps"])
        normed: Array = x / length * self.weights[f"{name}.weight"]
        return normed

    def _linear(self, name: str, x: Array) -> Array:
        return x @ self.weights[f"{name}.weight"].T + self.weights.get(f"{name}.bias", 0.0)
