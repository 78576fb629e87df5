"""The CUDA kernels on the simulated GPU of ``csrc/simt``, for tensors on the CPU."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

_NAMESPACE: Final = "starr_engine"
_LIBRARY: Final = (
    Path(__file__).parents[2] / f"build/{sys.implementation.cache_tag}/simt/_simulated_ops.so"
)

ORDERS: Final[Mapping[str, int]] = MappingProxyType({"forward": 0, "backward": 1, "shuffled": 2})
"""In which order blocks, and the threads of a block between two barriers, run."""


@cache
def _library() -> ctypes.CDLL:
    if not _LIBRARY.exists():
        raise FileNotFoundError(
            f"the simulated CUDA kernels are not built: {_LIBRARY} does not exist; "
            "run `make simulated` (`make test` does)"
        )
    torch.ops.load_library(_LIBRARY)
    library = ctypes.CDLL(str(_LIBRARY))
    library.simt_num_launches.restype = ctypes.c_int64
    return library


def simulated(op: OpOverload) -> OpOverload:
    """Of an op of ``torch.ops.starr_engine``, the one whose CUDA kernel takes CPU tensors.

    It has the same arguments and results. What a kernel does wrong on the simulated GPU raises a
    ``RuntimeError`` that names the op, the kernel, the block and the thread.

    Raises:
        FileNotFoundError: The simulated kernels are not built.
    """
    _library()
    name = op._schema.name.removeprefix(f"{_NAMESPACE}::")
    found: OpOverload = getattr(torch.ops.starr_simulated, name).default
    return found


def num_launches() -> int:
    """How many kernels this process has launched on the simulated GPU."""
    launches: int = _library().simt_num_launches()
    return launches


class _SimulatedOps(TorchDispatchMode):
    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        op = simulated(func) if func.namespace == _NAMESPACE else func
        return op(*args, **(kwargs or {}))


@contextmanager
def simulated_kernels(order: str) -> Iterator[None]:
    """Within it, ops on CPU tensors run the CUDA kernels, their threads in one of ``ORDERS``."""
    _library().simt_set_order(ORDERS[order])
    try:
        with _SimulatedOps():
            yield
    finally:
        _library().simt_set_order(ORDERS["forward"])
