"""Small random checkpoints in exactly the published Dream format, and their twin in numpy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.helpers.checkpoints import write_checkpoint
from tests.helpers.llada_reference import LLaDAReference
from tests.helpers.llama_twin import LLAMA_NAMES

MASK_TOKEN_ID = 3


def dream_config(**changes: Any) -> dict[str, Any]:
    """A ``config.json`` with every published field, tiny sizes; ``changes`` replace fields.

    The sizes are unequal on purpose, so that a swapped axis cannot go unnoticed.
    """
    config: dict[str, Any] = {
        "_name_or_path": "Dream-org/Dream-v0-Instruct-7B",
        "architectures": ["DreamModel"],
        "attention_dropout": 0.0,
        "auto_map": {
            "AutoConfig": "configuration_dream.DreamConfig",
            "AutoModel": "modeling_dream.DreamModel",
        },
        "bos_token_id": 1,
        "eos_token_id": 1,
        "hidden_act": "silu",
        "hidden_size": 48,
        "initializer_range": 0.02,
        "intermediate_size": 80,
        "mask_token_id": MASK_TOKEN_ID,
        "max_position_embeddings": 160,
        "max_window_layers": 28,
        "model_type": "Dream",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "pad_token_id": 1,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.46.2",
        "use_cache": True,
        "use_mrope": False,
        "use_sliding_window": False,
        "vocab_size": 101,
    }
    return config | changes


def dream_tensors(config: Mapping[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """Random float32 tensors under the published names, norm weights and biases too."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        scale = shape[-1] ** -0.5 if len(shape) > 1 else 0.3
        return torch.randn(shape, generator=generator) * scale

    size, hidden = config["hidden_size"], config["intermediate_size"]
    kv_size = size // config["num_attention_heads"] * config["num_key_value_heads"]
    tensors = {"model.embed_tokens.weight": random(config["vocab_size"], size)}
    for index in range(config["num_hidden_layers"]):
        layer = f"model.layers.{index}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{layer}.{norm}.weight"] = 1 + random(size)
        for name, rows in (("q_proj", size), ("k_proj", kv_size), ("v_proj", kv_size)):
            tensors[f"{layer}.self_attn.{name}.weight"] = random(rows, size)
            tensors[f"{layer}.self_attn.{name}.bias"] = random(rows)
        tensors[f"{layer}.self_attn.o_proj.weight"] = random(size, size)
        tensors[f"{layer}.mlp.gate_proj.weight"] = random(hidden, size)
        tensors[f"{layer}.mlp.up_proj.weight"] = random(hidden, size)
        tensors[f"{layer}.mlp.down_proj.weight"] = random(size, hidden)
    tensors["model.norm.weight"] = 1 + random(size)
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = random(config["vocab_size"], size)
    return tensors


def write_dream_checkpoint(
    folder: Path,
    config: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    num_shards: int = 1,
    sharpness: float = 1.0,
) -> Path:
    """Write a checkpoint folder with the published ``generation_config.json``.

    Args:
        folder: Made if it does not exist.
        config: Default: :func:`dream_config`.
        seed: Of the tensors.
        num_shards: 1 writes ``model.safetensors`` and no index.
        sharpness: Factor of the last norm; 5 makes confidences span the whole of [0, 1].

    Returns:
        ``folder``.
    """
    config = dream_config() if config is None else config
    tensors = dream_tensors(config, seed)
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * sharpness
    write_checkpoint(folder, config, tensors, num_shards=num_shards)
    generation = {
        "_from_model_config": True,
        "alg": "origin",
        "alg_temp": None,
        "bos_token_id": config["bos_token_id"],
        "eos_token_id": config["eos_token_id"],
        "eps": 0.001,
        "mask_token_id": None,
        "output_history": False,
        "pad_token_id": config["pad_token_id"],
        "steps": 512,
        "temperature": 0.0,
        "top_k": None,
        "top_p": None,
        "transformers_version": "4.46.2",
    }
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def dream_twin(folder: Path) -> LLaDAReference:
    """The same arithmetic in numpy, float64: LLaDA's with biases, under LLaDA's names."""
    config = json.loads((folder / "config.json").read_text())
    published = {llama: llada for llada, llama in LLAMA_NAMES.items()}
    weights = LLaDAReference.from_folder(folder, {}).weights
    renamed = {}
    for name, values in weights.items():
        *place, kind = name.removeprefix("model.").split(".")
        match place:
            case "layers", index, *rest:
                key = f"blocks.{index}.{published['.'.join(rest)]}"
            case _:
                key = {"embed_tokens": "wte", "norm": "ln_f", "lm_head": "ff_out"}[place[0]]
        renamed[f"model.transformer.{key}.{kind}"] = values
    return LLaDAReference(
        {
            "n_layers": config["num_hidden_layers"],
            "d_model": config["hidden_size"],
            "n_heads": config["num_attention_heads"],
            "rope_theta": config["rope_theta"],
            "rms_norm_eps": config["rms_norm_eps"],
            "weight_tying": config["tie_word_embeddings"],
        },
        renamed,
    )
