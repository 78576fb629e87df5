"""Between host and device: copies that the host does not wait for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_DTYPES: Final = {
    torch.bool: np.bool_,
    torch.int64: np.int64,
    torch.float32: np.float32,
    torch.float64: np.float64,
}

Arrays = Mapping[str, NDArray[Any]]


def upload(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """The array on the device, which the host does not wait for; on a CPU the same memory."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def download(tensors: Mapping[str, Tensor]) -> Callable[[], Arrays]:
    """Queue one copy of all tensors to the host.

    Args:
        tensors: bool, int64, float32 or float64, all on one device.

    Returns:
        Waits for the copy, and gives the arrays by their names.
    """
    device = next(iter(tensors.values())).device
    if device.type == "cpu":
        return lambda: {name: tensor.numpy() for name, tensor in tensors.items()}
    host = torch.empty(_num_bytes(tensors), dtype=torch.uint8, pin_memory=True)
    host.copy_(pack(tensors), non_blocking=True)
    copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
    copied.record(torch.cuda.current_stream(device))

    def wait() -> Arrays:
        copied.synchronize()
        return unpack(host, tensors)

    return wait


def pack(tensors: Mapping[str, Tensor]) -> Tensor:
    """All tensors as bytes, one behind the other: [bytes] uint8."""
    return torch.cat([each.contiguous().view(-1).view(torch.uint8) for each in tensors.values()])


def unpack(data: Tensor, like: Mapping[str, Tensor]) -> Arrays:
    """What :func:`pack` made of tensors of these shapes and dtypes.

    Args:
        data: [bytes] uint8, on the host.
        like: The tensors; only their shapes and dtypes are looked at.
    """
    flat = data.numpy()
    arrays: dict[str, NDArray[Any]] = {}
    start = 0
    for name, tensor in like.items():
        stop = start + tensor.numel() * tensor.element_size()
        piece = flat[start:stop].tobytes()  # at an address of its own, aligned
        arrays[name] = np.frombuffer(piece, _DTYPES[tensor.dtype]).reshape(tensor.shape)
        start = stop
    return arrays


def _num_bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(each.numel() * each.element_size() for each in tensors.values())
