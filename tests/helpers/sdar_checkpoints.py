"""Small random checkpoints in exactly the published SDAR format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.helpers.checkpoints import write_checkpoint

MASK_TOKEN_ID = 3
BLOCK_LENGTH = 8


def sdar_config(**changes: Any) -> dict[str, Any]:
    """A ``config.json`` with every published field, tiny sizes; ``changes`` replace fields.

    The sizes are unequal on purpose, so that a swapped axis cannot go unnoticed; the heads
    together are wider than the rows, as in SDAR-4B.
    """
    config: dict[str, Any] = {
        "architectures": ["SDARForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_implementation": "flex_attention",
        "auto_map": {"AutoModelForCausalLM": "modeling_sdar.SDARForCausalLM"},
        "block_size": BLOCK_LENGTH,
        "bos_token_id": 1,
        "debug": False,
        "eos_token_id": 1,
        "ep_size": 1,
        "fuse_cross_entropy": True,
        "head_dim": 14,
        "hidden_act": "silu",
        "hidden_size": 48,
        "initializer_range": 0.02,
        "intermediate_size": 80,
        "mask_token_id": MASK_TOKEN_ID,
        "max_position_embeddings": 160,
        "max_window_layers": 2,
        "micro_forward": False,
        "model_type": "sdar",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "skip_checkpoint": False,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.52.4",
        "use_cache": False,
        "use_deepep": False,
        "use_sliding_window": False,
        "vocab_size": 101,
    }
    return config | changes


def sdar_tensors(config: Mapping[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """Random float32 tensors under the published names, for ``config``.

    Norm weights and biases are random too, so that leaving one out shows.
    """
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        scale = shape[-1] ** -0.5 if len(shape) > 1 else 0.3
        return torch.randn(shape, generator=generator) * scale

    size, hidden = config["hidden_size"], config["intermediate_size"]
    query_size = config["num_attention_heads"] * config["head_dim"]
    kv_size = config["num_key_value_heads"] * config["head_dim"]
    tensors = {"model.embed_tokens.weight": random(config["vocab_size"], size)}
    for index in range(config["num_hidden_layers"]):
        layer = f"model.layers.{index}"
        for norm, length in {
            "input_layernorm": size,
            "post_attention_layernorm": size,
            "self_attn.q_norm": config["head_dim"],
            "self_attn.k_norm": config["head_dim"],
        }.items():
            tensors[f"{layer}.{norm}.weight"] = 1 + random(length)
        for name, rows_out, rows_in in (
            ("q_proj", query_size, size),
            ("k_proj", kv_size, size),
            ("v_proj", kv_size, size),
            ("o_proj", size, query_size),
        ):
            tensors[f"{layer}.self_attn.{name}.weight"] = random(rows_out, rows_in)
            if config["attention_bias"]:
                tensors[f"{layer}.self_attn.{name}.bias"] = random(rows_out)
        tensors[f"{layer}.mlp.gate_proj.weight"] = random(hidden, size)
        tensors[f"{layer}.mlp.up_proj.weight"] = random(hidden, size)
        tensors[f"{layer}.mlp.down_proj.weight"] = random(size, hidden)
    tensors["model.norm.weight"] = 1 + random(size)
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = random(config["vocab_size"], size)
    return tensors


def write_sdar_checkpoint(
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
        config: Default: :func:`sdar_config`.
        tensors: Default: :func:`sdar_tensors` of ``config``.
        generation_config: Content of ``generation_config.json``; None writes none.
        num_shards: 1 writes ``model.safetensors`` and no index.
        seed: Of the default tensors.

    Returns:
        ``folder``.
    """
    config = sdar_config() if config is None else config
    tensors = sdar_tensors(config, seed) if tensors is None else tensors
    write_checkpoint(folder, config, tensors, num_shards=num_shards)
    if generation_config is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation_config))
    return folder


def sharp_sdar_checkpoint(
    folder: Path, *, seed: int = 1, sharpness: float = 5.0, **changes: Any
) -> Path:
    """A random checkpoint whose confidences span the whole of [0, 1]; as ``sharp_checkpoint``.

    ``changes`` are those of :func:`sdar_config`.
    """
    config = sdar_config(**({"max_position_embeddings": 256} | changes))
    tensors = sdar_tensors(config, seed=seed)
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * sharpness
    return write_sdar_checkpoint(folder, config, tensors)
