"""What kernels for NVIDIA GPUs need, as reasons why they cannot serve a model."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch

from starr_engine.attention.base import AttentionShape

FLASH_PAGE_SIZE: Final = 256
"""FlashAttention 2 reads pages in place if their size is a multiple of this.

Source: github.com/Dao-AILab/flash-attention, csrc/flash_attn/flash_api.cpp, mha_varlen_fwd.
"""

FLASH_HEAD_DIMS: Final = range(8, 257, 8)
"""Head sizes of FlashAttention 2, by the same source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """What is called of another package."""

    module: str
    """That has it."""

    install: str
    """What to do if it is not there, with the lowest version."""

    functions: Mapping[str, Collection[str]]
    """Dotted names in the module, and parameters that each must have, at least one."""


def kernel_reasons(
    shape: AttentionShape, head_dims: Collection[int], package: Package
) -> list[str]:
    """Every reason why a package's kernels for these head sizes cannot serve a model.

    It is imported, which can take seconds, only if nothing else stands in the way.
    """
    reasons = gpu_reasons(shape, head_dims)
    if not is_installed(package):
        return [*reasons, f"{_root(package)} is not installed: {package.install}"]
    return reasons or package_reasons(package)


def gpu_reasons(shape: AttentionShape, head_dims: Collection[int]) -> list[str]:
    """What of device, dtype and sizes is not served by kernels for Ampere and newer GPUs."""
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


def is_installed(package: Package) -> bool:
    """Whether it can be found; nothing is imported."""
    root = _root(package)
    return root in sys.modules or importlib.util.find_spec(root) is not None


def package_reasons(package: Package) -> list[str]:
    """Why the functions of an installed package cannot be called as they must be."""
    module = package.module
    try:
        found = importlib.import_module(module)
    except Exception as error:  # whatever a package built for another torch may raise
        return [f"{module} cannot be imported: {type(error).__name__}: {error}"]
    reasons = []
    for name, parameters in package.functions.items():
        function: Any = found
        for part in name.split("."):
            function = getattr(function, part, None)
        known = () if function is None else inspect.signature(function).parameters
        if lacking := [each for each in parameters if each not in known]:
            what = f" has no argument {', '.join(lacking)}" if known else " is not there"
            reasons.append(f"{module}.{name}{what}: {package.install}")
    return reasons


def _root(package: Package) -> str:
    return package.module.partition(".")[0]


def _listed(head_dims: Collection[int]) -> str:
    if isinstance(head_dims, range):
        return f"a multiple of {head_dims.step} up to {head_dims[-1]}"
    *others, last = sorted(head_dims)
    return f"{', '.join(map(str, others))} or {last}"
