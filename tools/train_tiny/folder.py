"""A folder in a published checkpoint format: configuration, bfloat16 weights, tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tools.train_tiny.tokenizer import save_tokenizer


def write_folder(folder: Path, fields: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write ``folder``, which is made if need be.

    Args:
        folder: Files in it that have the names of a checkpoint's are replaced.
        fields: Of ``config.json``; ``eos_token_id`` is among them.
        tensors: By their published names; stored as bfloat16.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stored = {
        name: tensor.detach().to("cpu", torch.bfloat16).contiguous()
        for name, tensor in tensors.items()
    }
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "config.json", fields)
    eos_id = fields["eos_token_id"]
    ids = {"bos_token_id": 1, "eos_token_id": eos_id, "pad_token_id": eos_id}
    _write_json(folder / "generation_config.json", ids)
    save_tokenizer(folder)


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the configuration's fields, and the weights as float32."""
    fields: dict[str, Any] = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    return fields, {name: tensor.float() for name, tensor in tensors.items()}


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
