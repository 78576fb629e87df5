"""Small random checkpoints in the published formats of SDAR-MoE and LLaDA-MoE, and their twins."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from tests.helpers.checkpoints import write_checkpoint
from tests.helpers.sdar_checkpoints import sdar_config, sdar_tensors
from tests.helpers.sdar_reference import Array, SDARReference, Visible

MASK_TOKEN_ID, EOS_TOKEN_ID = 3, 1


def sdar_moe_config(**changes: Any) -> dict[str, Any]:
    """A ``config.json`` of SDAR-MoE; the first layer is dense, the second a mixture."""
    config = sdar_config(
        architectures=["SDARMoeForCausalLM"],
        auto_map={"AutoModelForCausalLM": "modeling_sdar_moe.SDARMoeForCausalLM"},
        decoder_sparse_step=1,
        mlp_only_layers=[0],
        model_type="sdar_moe",
        moe_intermediate_size=24,
        norm_topk_prob=True,
        num_experts=12,
        num_experts_per_tok=3,
        output_router_logits=False,
        router_aux_loss_coef=0.001,
    )
    return config | changes


def llada_moe_config(**changes: Any) -> dict[str, Any]:
    """A ``config.json`` of LLaDA-MoE, whose mask token only the tokenizer names."""
    config: dict[str, Any] = {
        "architectures": ["LLaDAMoEModel"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "auto_map": {"AutoModel": "modeling_lladamoe.LLaDAMoEModelLM"},
        "clip_qkv": None,
        "eos_token_id": EOS_TOKEN_ID,
        "expert_intermediate_size": 24,
        "hidden_act": "silu",
        "hidden_size": 48,
        "initializer_range": 0.02,
        "max_position_embeddings": 256,
        "model_type": "llada",
        "moe_layer_freq": [1, 1],
        "moe_router_enable_expert_bias": False,
        "moe_router_score_function": "softmax",
        "norm_topk_prob": None,
        "num_attention_heads": 4,
        "num_experts": 12,
        "num_experts_per_tok": 3,
        "num_hidden_layers": 2,
        "num_key_value_heads": 4,
        "output_router_logits": False,
        "pad_token_id": EOS_TOKEN_ID,
        "partial_rotary_factor": 1,
        "qk_layernorm": True,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 50000,
        "routed_scaling_factor": 1,
        "shared_expert_intermediate_size": None,
        "tie_word_embeddings": False,
        "use_cache": False,
        "vocab_size": 101,
    }
    return config | changes


TOKENIZER = {
    "added_tokens_decoder": {str(MASK_TOKEN_ID): {"content": "<|mask|>", "special": True}},
    "mask_token": "<|mask|>",
}
"""What bears on the model of LLaDA-MoE's ``tokenizer_config.json``."""


def as_sdar_moe(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same arithmetic in SDAR-MoE's words, which the twins below understand."""
    if config["model_type"] == "sdar_moe":
        return dict(config)
    return dict(config) | {
        "head_dim": config["hidden_size"] // config["num_attention_heads"],
        "intermediate_size": config.get("dense_intermediate_size", 1),
        "mlp_only_layers": [i for i, n in enumerate(config["moe_layer_freq"]) if not n],
        "decoder_sparse_step": 1,
        "moe_intermediate_size": config["expert_intermediate_size"],
        "norm_topk_prob": False,
    }


def is_mixture(config: Mapping[str, Any], layer: int) -> bool:
    """Whether a layer is one; ``config`` in SDAR-MoE's words."""
    listed = layer in config["mlp_only_layers"]
    return not listed and (layer + 1) % config["decoder_sparse_step"] == 0


def moe_tensors(config: Mapping[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """Random float32 tensors under the published names, which both families share."""
    config = as_sdar_moe(config)
    tensors = sdar_tensors(config, seed)
    generator = torch.Generator().manual_seed(seed + 1000)
    size, inner = config["hidden_size"], config["moe_intermediate_size"]
    shapes = {"gate_proj": (inner, size), "up_proj": (inner, size), "down_proj": (size, inner)}
    for layer in range(config["num_hidden_layers"]):
        if not is_mixture(config, layer):
            continue
        mlp = f"model.layers.{layer}.mlp"
        for name in shapes:
            del tensors[f"{mlp}.{name}.weight"]
        router = torch.randn((config["num_experts"], size), generator=generator)
        tensors[f"{mlp}.gate.weight"] = router * size**-0.5
        for expert in range(config["num_experts"]):
            for name, shape in shapes.items():
                drawn = torch.randn(shape, generator=generator) * shape[1] ** -0.5
                tensors[f"{mlp}.experts.{expert}.{name}.weight"] = drawn
    return tensors


def write_moe_checkpoint(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor] | None = None,
    *,
    seed: int = 0,
    sharpness: float = 1.0,
) -> Path:
    """Write a checkpoint folder.

    Args:
        folder: Made if it does not exist.
        config: Of either family; LLaDA-MoE gets its tokenizer's settings beside it.
        tensors: Default: :func:`moe_tensors` of ``config``.
        seed: Of the default tensors.
        sharpness: Factor of the last norm, so that confidences span more of [0, 1].

    Returns:
        ``folder``.
    """
    made = dict(moe_tensors(config, seed) if tensors is None else tensors)
    made["model.norm.weight"] = made["model.norm.weight"] * sharpness
    write_checkpoint(folder, config, made)
    if config["model_type"] != "sdar_moe":
        (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER))
    return folder


class MoEReference(SDARReference):
    """SDAR's numpy twin with mixtures, for both families: expert by expert and row by row.

    Args:
        config: Of the checkpoint, of either family.
        weights: Of the checkpoint, by published name.
    """

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, Array]) -> None:
        super().__init__(as_sdar_moe(config), weights)

    def logits(
        self,
        token_ids: Sequence[int],
        positions: Sequence[int] | None = None,
        visible: Visible | None = None,
    ) -> Array:
        """See the base class; a bidirectional model's rows see all."""
        if visible is None and "block_size" not in self.config:
            visible = np.ones((len(token_ids), len(token_ids)), dtype=np.bool_)
        return super().logits(token_ids, positions, visible)

    def _feed_forward(self, layer: str, x: Array) -> Array:
        if f"{layer}.mlp.gate.weight" not in self.weights:
            return super()._feed_forward(layer, x)
        normed = self._norm(f"{layer}.post_attention_layernorm", x)
        scores = self._linear(f"{layer}.mlp.gate", normed)
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares = odds / odds.sum(axis=1, keepdims=True)
        out = np.zeros_like(x)
        for row, share in enumerate(shares):
            chosen = sorted(range(len(share)), key=lambda i: -share[i])
            chosen = chosen[: self.config["num_experts_per_tok"]]
            total = share[chosen].sum() if self.config["norm_topk_prob"] else 1.0
            for index in chosen:
                expert = f"{layer}.mlp.experts.{index}"
                gate = self._linear(f"{expert}.gate_proj", normed[row])
                inner = gate / (1 + np.exp(-gate)) * self._linear(f"{expert}.up_proj", normed[row])
                out[row] += share[index] / total * self._linear(f"{expert}.down_proj", inner)
        return out


class Qwen3MoeTwin:
    """A transformers Qwen3-MoE with the weights of a checkpoint of either family.

    Args:
        config: Of the checkpoint.
        tensors: Of the checkpoint.
        dtype: Of weights and activations.
    """

    def __init__(
        self, config: Mapping[str, Any], tensors: Mapping[str, Tensor], dtype: torch.dtype
    ) -> None:
        self.block_length: int | None = config.get("block_size")
        config = as_sdar_moe(config)
        names = (
            "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
            "num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings",
            "rms_norm_eps", "attention_bias", "tie_word_embeddings", "decoder_sparse_step",
            "mlp_only_layers", "moe_intermediate_size", "num_experts", "num_experts_per_tok",
            "norm_topk_prob",
        )  # fmt: skip
        theta = {"rope_type": "default", "rope_theta": config["rope_theta"]}
        self.model = Qwen3MoeForCausalLM(
            Qwen3MoeConfig(rope_parameters=theta, **{name: config[name] for name in names})
        )
        self.model.set_attn_implementation("eager")
        self.model.load_state_dict(self._stacked(config, tensors))
        torch.nn.Module.to(self.model, dtype)
        torch.nn.Module.eval(self.model)

    @staticmethod
    def _stacked(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors under the names of transformers, which stacks experts too."""
        stacked = {name: tensor for name, tensor in tensors.items() if ".experts." not in name}
        if config["tie_word_embeddings"]:
            stacked["lm_head.weight"] = tensors["model.embed_tokens.weight"]
        for layer in filter(
            lambda index: is_mixture(config, index), range(config["num_hidden_layers"])
        ):
            experts = f"model.layers.{layer}.mlp.experts"
            every = range(config["num_experts"])
            stacked[f"{experts}.down_proj"] = torch.stack(
                [tensors[f"{experts}.{i}.down_proj.weight"] for i in every]
            )
            stacked[f"{experts}.gate_up_proj"] = torch.stack(
                [
                    torch.cat([tensors[f"{experts}.{i}.{part}_proj.weight"] for part in both])
                    for i in every
                    for both in [("gate", "up")]
                ]
            )
        return stacked

    def logits(self, token_ids: Sequence[int]) -> Tensor:
        """Logits [length, vocabulary] of one sequence."""
        where = torch.arange(len(token_ids))
        block = where // (self.block_length or len(token_ids))
        hidden = block[None, :] > block[:, None]
        mask = torch.zeros(hidden.shape, dtype=self.model.dtype).masked_fill(hidden, -torch.inf)
        with torch.inference_mode():
            output = self.model(torch.tensor([token_ids]), attention_mask=mask[None, None])
        logits: Tensor = output.logits[0]
        return logits
