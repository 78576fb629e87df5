"""tiny-llada as a folder in the published LLaDA format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from torch import nn

from tools.train_tiny.folder import read_folder, write_folder
from tools.train_tiny.llada.model import ModelConfig, TinyLLaDA

_PREFIX: Final = "model.transformer."


def published_config(config: ModelConfig, mask_id: int, eos_id: int) -> dict[str, Any]:
    """Return the fields of the published configuration for this model."""
    return {
        "activation_type": "silu",
        "alibi": False,
        "alibi_bias_max": 8.0,
        "architectures": ["LLaDAModelLM"],
        "attention_dropout": 0.0,
        "attention_layer_norm": False,
        "attention_layer_norm_with_affine": True,
        "bias_for_layer_norm": False,
        "block_group_size": 1,
        "block_type": "llama",
        "d_model": config.d_model,
        "embedding_dropout": 0.0,
        "embedding_size": config.vocab_size,
        "eos_token_id": eos_id,
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
        "mask_token_id": mask_id,
        "max_sequence_length": 512,
        "mlp_hidden_size": config.mlp_hidden_size,
        "mlp_ratio": 4,
        "model_type": "llada",
        "multi_query_attention": None,
        "n_heads": config.n_heads,
        "n_kv_heads": config.n_heads,
        "n_layers": config.n_layers,
        "pad_token_id": eos_id,
        "precision": "amp_bf16",
        "residual_dropout": 0.0,
        "rms_norm_eps": config.rms_norm_eps,
        "rope": True,
        "rope_full_precision": True,
        "rope_theta": config.rope_theta,
        "scale_logits": False,
        "torch_dtype": "bfloat16",
        "use_cache": False,
        "vocab_size": config.vocab_size,
        "weight_tying": True,
    }


def build(fields: Mapping[str, Any]) -> TinyLLaDA:
    """Return a model of the sizes in ``fields``, which may hold others."""
    return TinyLLaDA(
        ModelConfig(**{name: fields[name] for name in ModelConfig.__dataclass_fields__})
    )


def load_model(folder: Path) -> TinyLLaDA:
    """Return the float32 model of an exported folder."""
    fields, tensors = read_folder(folder)
    model = build(fields)
    model.load_state_dict({k.removeprefix(_PREFIX): v for k, v in tensors.items()})
    return model.eval()


def export(model: nn.Module, mask_id: int, eos_id: int, folder: Path) -> None:
    """Write configuration, bfloat16 weights and tokenizer into ``folder``."""
    assert isinstance(model, TinyLLaDA)
    tensors = {_PREFIX + name: weight for name, weight in model.state_dict().items()}
    write_folder(folder, published_config(model.config, mask_id, eos_id), tensors)
