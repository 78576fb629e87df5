"""Small random checkpoints in exactly the published LLaDA2.0 and 2.1 format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.helpers.checkpoints import write_checkpoint

MASK_TOKEN_ID = 3
EOS_TOKEN_ID = 1
BLOCK_LENGTH = 8


def llada2_config(**changes: Any) -> dict[str, Any]:
    """A ``config.json`` with every published field, tiny sizes; ``changes`` replace fields.

    The sizes are unequal on purpose, so that a swapped axis cannot go unnoticed. Token ids and
    block length, which the published files leave to the code, stand at the end.
    """
    config: dict[str, Any] = {
        "architectures": ["LLaDA2MoeModelLM"],
        "attention_dropout": 0.0,
        "auto_map": {"AutoModelForCausalLM": "modeling_llada2_moe.LLaDA2MoeModelLM"},
        "embedding_dropout": 0.0,
        "first_k_dense_replace": 1,
        "head_dim": 20,
        "hidden_act": "silu",
        "hidden_size": 48,
        "initializer_range": 0.02,
        "intermediate_size": 80,
        "max_position_embeddings": 160,
        "max_window_layers": 28,
        "model_type": "llada2_moe",
        "moe_intermediate_size": 24,
        "moe_router_enable_expert_bias": True,
        "n_group": 4,
        "norm_head": False,
        "norm_softmax": False,
        "norm_topk_prob": True,
        "num_attention_heads": 4,
        "num_experts": 12,
        "num_experts_per_tok": 3,
        "num_hidden_layers": 3,
        "num_key_value_heads": 2,
        "num_shared_experts": 1,
        "output_dropout": 0.0,
        "output_router_logits": False,
        "pad_token_id": EOS_TOKEN_ID,
        "partial_rotary_factor": 0.5,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 600000,
        "rotary_dim": 10,
        "routed_scaling_factor": 2.5,
        "router_dtype": "fp32",
        "score_function": "sigmoid",
        "tie_word_embeddings": False,
        "topk_group": 2,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.52.3",
        "use_bias": False,
        "use_cache": False,
        "use_qkv_bias": False,
        "use_rmsnorm": True,
        "use_sliding_window": False,
        "using_split_qkv_in_self_attention": False,
        "vocab_size": 101,
        "mask_token_id": MASK_TOKEN_ID,
        "eos_token_id": EOS_TOKEN_ID,
        "block_length": BLOCK_LENGTH,
    }
    return config | changes


def llada2_tensors(config: Mapping[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """Random float32 tensors under the published names, for ``config``.

    Norm weights and biases are random too, so that leaving one out shows.
    """
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        scale = shape[-1] ** -0.5 if len(shape) > 1 else 0.3
        return torch.randn(shape, generator=generator) * scale

    def feed_forward(prefix: str, inner: int) -> dict[str, Tensor]:
        return {
            f"{prefix}.gate_proj.weight": random(inner, size),
            f"{prefix}.up_proj.weight": random(inner, size),
            f"{prefix}.down_proj.weight": random(size, inner),
        }

    size, head_dim = config["hidden_size"], config["head_dim"]
    num_heads, num_kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    fused, expert_size = (num_heads + 2 * num_kv_heads) * head_dim, config["moe_intermediate_size"]
    tensors = {"model.word_embeddings.weight": random(config["vocab_size"], size)}
    for index in range(config["num_hidden_layers"]):
        layer = f"model.layers.{index}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{layer}.{norm}.weight"] = 1 + random(size)
        if config.get("use_qk_norm", True):
            for norm in ("query_layernorm", "key_layernorm"):
                tensors[f"{layer}.attention.{norm}.weight"] = 1 + random(head_dim)
        for name, rows_out, rows_in, has_bias in (
            ("query_key_value", fused, size, config["use_qkv_bias"]),
            ("dense", size, num_heads * head_dim, config["use_bias"]),
        ):
            tensors[f"{layer}.attention.{name}.weight"] = random(rows_out, rows_in)
            if has_bias:
                tensors[f"{layer}.attention.{name}.bias"] = random(rows_out)
        mlp = f"{layer}.mlp"
        if index < config["first_k_dense_replace"]:
            tensors |= feed_forward(mlp, config["intermediate_size"])
            continue
        tensors[f"{mlp}.gate.weight"] = random(config["num_experts"], size)
        tensors[f"{mlp}.gate.expert_bias"] = random(config["num_experts"])
        for expert in range(config["num_experts"]):
            tensors |= feed_forward(f"{mlp}.experts.{expert}", expert_size)
        shared = expert_size * config["num_shared_experts"]
        tensors |= feed_forward(f"{mlp}.shared_experts", shared)
    tensors["model.norm.weight"] = 1 + random(size)
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = random(config["vocab_size"], size)
    return tensors


def write_llada2_checkpoint(
    folder: Path,
    config: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Tensor] | None = None,
    *,
    generation_config: Mapping[str, Any] | None = None,
    num_shards: int = 1,
    seed: int = 0,
) -> Path:
    """Write a checkpoint folder; see :func:`tests.helpers.checkpoints.write_checkpoint`.

    Args:
        folder: Made if it does not exist.
        config: Default: :func:`llada2_config`.
        tensors: Default: :func:`llada2_tensors` of ``config``.
        generation_config: Content of ``generation_config.json``; None writes none.
        num_shards: 1 writes ``model.safetensors`` and no index.
        seed: Of the default tensors.

    Returns:
        ``folder``.
    """
    config = llada2_config() if config is None else config
    tensors = llada2_tensors(config, seed) if tensors is None else tensors
    write_checkpoint(folder, config, tensors, num_shards=num_shards)
    if generation_config is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation_config))
    return folder


def sharp_llada2_checkpoint(folder: Path, *, seed: int = 1, sharpness: float = 5.0) -> Path:
    """A random checkpoint whose confidences span the whole of [0, 1]; as ``sharp_checkpoint``."""
    config = llada2_config()
    tensors = llada2_tensors(config, seed=seed)
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * sharpness
    return write_llada2_checkpoint(folder, config, tensors)
