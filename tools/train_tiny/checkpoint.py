"""The state of a training run as one safetensors file; whatever is no tensor is JSON inside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor


def save_state(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write ``path`` whole or not at all.

    Args:
        path: Replaced if it exists.
        tensors: By name; copied to the CPU.
        facts: Anything JSON holds.
    """
    partial = path.with_suffix(".partial")
    flat = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    save_file(flat, partial, metadata={"facts": json.dumps(facts)})
    partial.replace(path)


def load_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, on the CPU, and the facts of a file written by ``save_state``."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
        facts: dict[str, Any] = json.loads(file.metadata()["facts"])
    return tensors, facts


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names start with ``prefix.``, without it."""
    head = f"{prefix}."
    return {
        name.removeprefix(head): tensor for name, tensor in tensors.items() if name.startswith(head)
    }
