"""Write a trained model as a checkpoint folder in the published LLaDA format."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tools.train_tiny.checkpoint import load_state, under
from tools.train_tiny.model import ModelConfig, TinyLLaDA
from tools.train_tiny.tokenizer import save_tokenizer

_PREFIX = "model.transformer."


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


def load_model(folder: Path) -> TinyLLaDA:
    """Return the float32 model of an exported folder."""
    from safetensors.torch import load_file

    fields = json.loads((folder / "config.json").read_text())
    model = TinyLLaDA(
        ModelConfig(**{name: fields[name] for name in ModelConfig.__dataclass_fields__})
    )
    tensors = load_file(folder / "model.safetensors")
    model.load_state_dict({k.removeprefix(_PREFIX): v.float() for k, v in tensors.items()})
    return model.eval()


def export(model: TinyLLaDA, mask_id: int, eos_id: int, folder: Path) -> None:
    """Write configuration, bfloat16 weights and tokenizer into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        _PREFIX + name: weight.detach().to("cpu", torch.bfloat16).contiguous()
        for name, weight in model.state_dict().items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    fields = published_config(model.config, mask_id, eos_id)
    _write_json(folder / "config.json", fields)
    ids = {"bos_token_id": 1, "eos_token_id": eos_id, "pad_token_id": eos_id}
    _write_json(folder / "generation_config.json", ids)
    save_tokenizer(folder)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def main() -> None:
    """Export the weights of a training checkpoint."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="checkpoint.safetensors of a run"
    )
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    tensors, facts = load_state(args.checkpoint)
    model = TinyLLaDA(ModelConfig(**facts["model_config"]))
    model.load_state_dict(under("model", tensors))
    export(model, facts["mask_id"], facts["eos_id"], args.output)


if __name__ == "__main__":
    main()
