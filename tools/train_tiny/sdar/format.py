"""tiny-sdar as a folder in the published SDAR format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from tools.train_tiny.folder import read_folder, write_folder
from tools.train_tiny.sdar.model import SdarConfig, TinySDAR
from tools.train_tiny.sdar.schedule import BLOCK_LENGTH


def published_config(config: SdarConfig, mask_id: int, eos_id: int) -> dict[str, Any]:
    """Return the fields of the published configuration for this model.

    Two of them, ``block_size`` and ``mask_token_id``, are read by the published training code;
    the rest is that of Qwen3.
    """
    return {
        "architectures": ["SDARForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "block_size": BLOCK_LENGTH,
        "bos_token_id": 1,
        "eos_token_id": eos_id,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": config.intermediate_size,
        "mask_token_id": mask_id,
        "max_position_embeddings": 512,
        "max_window_layers": config.num_hidden_layers,
        "model_type": "sdar",
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_hidden_layers,
        "num_key_value_heads": config.num_key_value_heads,
        "pad_token_id": eos_id,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": config.vocab_size,
    }


def build(fields: Mapping[str, Any]) -> TinySDAR:
    """Return a model of the sizes in ``fields``, which may hold others."""
    return TinySDAR(SdarConfig(**{name: fields[name] for name in SdarConfig.__dataclass_fields__}))


def load_model(folder: Path) -> TinySDAR:
    """Return the float32 model of an exported folder."""
    fields, tensors = read_folder(folder)
    model = build(fields)
    model.load_state_dict(tensors)
    return model.eval()


def export(model: nn.Module, mask_id: int, eos_id: int, folder: Path) -> None:
    """Write configuration, bfloat16 weights and tokenizer into ``folder``."""
    assert isinstance(model, TinySDAR)
    fields = published_config(model.config, mask_id, eos_id)
    write_folder(folder, fields, model.state_dict())
