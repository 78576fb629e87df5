"""Which code stands for a kernel of the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.helpers.simulated_kernels import simulated

KernelOf = Callable[[Any], Callable[..., Any]]
"""What computes an op on the data of device tensors."""


def cpu_kernel(func: Any) -> Callable[..., Any]:
    """The op's own kernel for the CPU."""
    kernel: Callable[..., Any] = func
    return kernel


def cuda_kernel(func: Any) -> Callable[..., Any]:
    """Of our own ops the CUDA kernel, on the simulated GPU of ``csrc/simt``."""
    return simulated(func) if func.namespace == "starr_engine" else cpu_kernel(func)
