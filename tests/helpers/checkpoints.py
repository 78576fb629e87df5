"""Small random checkpoints in exactly the published LLaDA format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

MASK_TOKEN_ID = 3


def llada_config(**changes: Any) -> dict[str, Any]:
    """A ``config.json`` with every published field, tiny sizes; ``changes`` replace fields.

    The sizes are unequal on purpose, so that a swapped axis cannot go unnoticed.
    """
    config: dict[str, Any] = {
        "activation_type": "silu",
        "alibi": False,
        "alibi_bias_max": 8.0,
        "architectures": ["LLaDAModelLM"],
        "attention_dropout": 0.0,
        "attention_layer_norm": False,
        "attention_layer_norm_with_affine": True,
        "auto_map": {"AutoModel": "modeling_llada.LLaDAModelLM"},
        "bias_for_layer_norm": False,
        "block_group_size": 1,
        "block_type": "llama",
        "d_model": 48,
        "embedding_dropout": 0.0,
        "embedding_size": 101,
        "eos_token_id": 1,
        "flash_attention": False,
        "include_bias": False,
        "include_qkv_bias": False,
        "init_cutoff_factor": None,
        "init_device": "meta",
        "init_fn": "mitchell",
        "init_std": 0.02,
        "input_emb_norm": False,
        "layer_norm_type": "rms",
        "layer_norm_with_affine": True,
        "mask_token_id": MASK_TOKEN_ID,
        "max_sequence_length": 160,
        "mlp_hidden_size": 80,
        "mlp_ratio": 4,
        "model_type": "llada",
        "multi_query_attention": None,
        "n_heads": 4,
        "n_kv_heads": 4,
        "n_layers": 2,
        "pad_token_id": 1,
        "precision": "amp_bf16",
        "residual_dropout": 0.0,
        "rms_norm_eps": 1e-05,
        "rope": True,
        "rope_full_precision": True,
        "rope_theta": 500000.0,
        "scale_logits": False,
        "transformers_version": "4.46.3",
        "use_cache": False,
        "vocab_size": 101,
        "weight_tying": False,
    }
    return config | changes


def llada_tensors(config: Mapping[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """Random float32 tensors under the published names, for ``config``.

    Norm weights and biases are random too, so that leaving one out shows.
    """
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        scale = shape[-1] ** -0.5 if len(shape) > 1 else 0.3
        return torch.randn(shape, generator=generator) * scale

    size, hidden = config["d_model"], config["mlp_hidden_size"]
    kv_size = size // config["n_heads"] * (config["n_kv_heads"] or config["n_heads"])
    rows = config["embedding_size"] or config["vocab_size"]
    bias = config["include_bias"]
    qkv_bias = bias or config["include_qkv_bias"]
    norm_bias = bias if config["bias_for_layer_norm"] is None else config["bias_for_layer_norm"]
    tensors: dict[str, Tensor] = {"model.transformer.wte.weight": random(rows, size)}

    def norm(name: str) -> None:
        tensors[f"{name}.weight"] = 1 + random(size)
        if norm_bias:
            tensors[f"{name}.bias"] = random(size)

    def linear(name: str, rows_out: int, rows_in: int, *, bias: bool) -> None:
        tensors[f"{name}.weight"] = random(rows_out, rows_in)
        if bias:
            tensors[f"{name}.bias"] = random(rows_out)

    for index in range(config["n_layers"]):
        block = f"model.transformer.blocks.{index}"
        norm(f"{block}.attn_norm")
        norm(f"{block}.ff_norm")
        linear(f"{block}.q_proj", size, size, bias=qkv_bias)
        linear(f"{block}.k_proj", kv_size, size, bias=qkv_bias)
        linear(f"{block}.v_proj", kv_size, size, bias=qkv_bias)
        linear(f"{block}.attn_out", size, size, bias=bias)
        linear(f"{block}.ff_proj", hidden, size, bias=bias)
        linear(f"{block}.up_proj", hidden, size, bias=bias)
        linear(f"{block}.ff_out", size, hidden, bias=bias)
    norm("model.transformer.ln_f")
    if not config["weight_tying"]:
        linear("model.transformer.ff_out", rows, size, bias=bias)
    return tensors


def write_checkpoint(
    folder: Path,
    config: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Tensor] | None = None,
    *,
    num_shards: int = 1,
    seed: int = 0,
) -> Path:
    """Write a checkpoint folder: one file, or shards with an index.

    Args:
        folder: Made if it does not exist.
        config: Default: :func:`llada_config`.
        tensors: Default: :func:`llada_tensors` of ``config``.
        num_shards: 1 writes ``model.safetensors`` and no index.
        seed: Of the default tensors.

    Returns:
        ``folder``.
    """
    config = llada_config() if config is None else config
    tensors = llada_tensors(config, seed) if tensors is None else tensors
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    if num_shards == 1:
        save_file(dict(tensors), folder / "model.safetensors", {"format": "pt"})
        return folder
    weight_map: dict[str, str] = {}
    for shard in range(num_shards):
        file_name = f"model-{shard + 1:05d}-of-{num_shards:05d}.safetensors"
        part = {name: tensors[name] for name in list(tensors)[shard::num_shards]}
        save_file(part, folder / file_name, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file_name)
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    return folder
