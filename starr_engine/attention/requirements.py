"""What kernels for NVIDIA GPUs need, as reasons why they cannot serve a model."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Collection, Mapping
from typing import Any, Final

import torch

from starr_engine.attention.base import AttentionShape

FLASH_PAGE_SIZE: Final = 256
"""FlashAttention 2 reads pages in place if their size is a multiple of this.

Source: github.com/Dao-AILab/flash-attention, csrc/flash_attn/flash_api.cpp, mha_varlen_fwd.
"""

FLASH_HEAD_DIMS: Final = range(8, 257, 8)
"""Head sizes of FlashAttention 2, by the same source."""


def gpu_reasons(shape: AttentionShape, head_dims: Collection[int]) -> list[str]:
    """What of device, dtype and sizes is not served by kernels for Ampere and newer GPUs.

    Args:
        shape: Of the model.
        head_dims: Those served.
    """
    reasons = []
    if shape.device.type != "cuda":
        reasons.append(f"device must be cuda, got {shape.device.type}")
    elif not torch.cuda.is_available():
        reasons.append(f"torch {torch.__version__} finds no CUDA device")
    else:
        major, minor = torch.cuda.get_device_capability(shape.device)
        if major < 8:
            reasons.append(f"compute capability must be 8.0 or higher, got {major}.{minor}")
    if shape.dtype not in (torch.bfloat16, torch.float16):
        reasons.append(f"dtype must be bfloat16 or float16, got {str(shape.dtype)[6:]}")
    if shape.head_dim not in head_dims:
        reasons.append(f"head size must be {_listed(head_dims)}, got {shape.head_dim}")
    if shape.num_heads % shape.num_kv_heads:
        reasons.append(
            f"{shape.num_heads} query heads must be a multiple of {shape.num_kv_heads} key heads"
        )
    return reasons


def import_reasons(
    module: str, package: str, functions: Mapping[str, Collection[str]]
) -> list[str]:
    """Why functions of another package cannot be called as they must be.

    Args:
        module: That has them.
        package: What to install for it, with the lowest version.
        functions: Dotted names in the module, and parameters that each must have, at least one.
    """
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            return [f"{error.name} is not installed: {package}"]
        return [f"{module} cannot be imported: {error}"]
    except Exception as error:  # whatever a package built for another torch may raise
        return [f"{module} cannot be imported: {type(error).__name__}: {error}"]
    reasons = []
    for name, parameters in functions.items():
        function: Any = found
        for part in name.split("."):
            function = getattr(function, part, None)
        known = () if function is None else inspect.signature(function).parameters
        if lacking := [each for each in parameters if each not in known]:
            what = f"the argument {', '.join(lacking)}" if known else "that function"
            reasons.append(f"{module}.{name} lacks {what}: {package}")
    return reasons


def _listed(head_dims: Collection[int]) -> str:
    if isinstance(head_dims, range):
        return f"a multiple of {head_dims.step} up to {head_dims[-1]}"
    *others, last = sorted(head_dims)
    return f"{', '.join(map(str, others))} or {last}"
