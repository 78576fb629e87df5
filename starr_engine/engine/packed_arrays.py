"""The arrays of a step in one piece of host memory, uploaded in one copy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]

_ALIGNMENT: Final = 16
"""Bytes; kernels load a few integers at once."""

_DTYPES: Final[dict[torch.dtype, type]] = {torch.int32: np.int32, torch.int64: np.int64}


class PackedArrays:
    """Arrays to fill on the host, and the same as tensors on the device.

    On a CPU both are the same memory. For CUDA the host's memory is pinned, and the copy is only
    queued: torch's allocator keeps that memory until the copy has been made.

    Args:
        shapes: Of each array by its name, and its dtype, int32 or int64.
        device: Where the tensors go.
        tail: Integers that go up behind the arrays, for somebody else.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[tuple[int, ...], torch.dtype]],
        device: torch.device,
        *,
        tail: int = 0,
    ) -> None:
        self._device = device
        self._places: dict[str, tuple[int, int, tuple[int, ...], torch.dtype]] = {}
        stop = 0
        for name, (shape, dtype) in shapes.items():
            num_bytes = math.prod(shape) * dtype.itemsize
            self._places[name] = (stop, stop + num_bytes, shape, dtype)
            stop += -(-num_bytes // _ALIGNMENT) * _ALIGNMENT
        self.num_bytes = stop
        """Of all arrays, with what lies between them."""

        self.host = torch.empty(
            stop + tail * torch.int64.itemsize,
            dtype=torch.uint8,
            pin_memory=device.type == "cuda",
        )
        """All of it, as it lies here."""

        flat = self.host.numpy()
        self._arrays: dict[str, Any] = {
            name: flat[start:end].view(_DTYPES[dtype]).reshape(shape)
            for name, (start, end, shape, dtype) in self._places.items()
        }
        self.tail: Int64 = flat[stop:].view(np.int64)
        """[tail], not yet filled."""

    def int32(self, name: str) -> Int32:
        """The array of this name, not yet filled."""
        array: Int32 = self._arrays[name]
        return array

    def int64(self, name: str) -> Int64:
        """The array of this name, not yet filled."""
        array: Int64 = self._arrays[name]
        return array

    def upload(self) -> Tensor:
        """All of it on the device, as bytes; to be filled before."""
        return self.host.to(self._device, non_blocking=True)

    def views(self, memory: Tensor) -> dict[str, Tensor]:
        """The arrays in memory that begins as ``host`` does."""
        return {
            name: memory[start:end].view(dtype).view(shape)
            for name, (start, end, shape, dtype) in self._places.items()
        }

    def tail_of(self, memory: Tensor) -> Tensor:
        """int64 [tail] in what ``host`` was copied to."""
        return memory[self.num_bytes :].view(torch.int64)

    def to_bytes(self) -> bytes:
        """All arrays as they lie here, without the tail."""
        return self.host.numpy()[: self.num_bytes].tobytes()

    def take_bytes(self, data: memoryview) -> None:
        """Fill the arrays with what :meth:`to_bytes` gave of arrays of the same shapes."""
        self.host.numpy()[: self.num_bytes] = np.frombuffer(data, np.uint8)
