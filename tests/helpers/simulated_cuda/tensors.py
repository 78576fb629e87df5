"""Tensors that say they are on CUDA, over tensors in the memory of the CPU."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tests.helpers.simulated_cuda.dispatch import Dispatcher

DEVICE = torch.device("cuda", 0)
_ROUNDED = 512
"""Bytes; as torch's allocator rounds."""


class Heap:
    """Bytes that tensors of the device hold, counted once for all views of a storage."""

    def __init__(self) -> None:
        self.allocated = 0
        self.peak = 0
        self._held: weakref.WeakValueDictionary[int, Held] = weakref.WeakValueDictionary()

    def hold(self, inner: Tensor) -> Held:
        """What keeps the tensor's memory counted while it lives."""
        storage = inner.untyped_storage()
        found = self._held.get(storage._cdata)
        if found is None:
            found = self._held[storage._cdata] = Held(self, storage.nbytes())
        return found


class Held:
    """Memory of one storage."""

    def __init__(self, heap: Heap, num_bytes: int) -> None:
        self._heap = heap
        self._num_bytes = -(-num_bytes // _ROUNDED) * _ROUNDED
        heap.allocated += self._num_bytes
        heap.peak = max(heap.peak, heap.allocated)

    def __del__(self) -> None:
        self._heap.allocated -= self._num_bytes


class DeviceTensor(Tensor):
    """A tensor on the simulated device.

    Args:
        inner: Its data.
        home: Runs its ops.
    """

    inner: Tensor
    home: Dispatcher
    held: Held

    @staticmethod
    def __new__(cls, inner: Tensor, home: Dispatcher) -> DeviceTensor:
        """See the class."""
        made: DeviceTensor = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(),
            dtype=inner.dtype, device=DEVICE,
        )  # fmt: skip
        made.inner, made.home, made.held = inner, home, home.heap.hold(inner)
        return made

    def __init__(self, inner: Tensor, home: Dispatcher) -> None:
        """See the class."""

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Outside of the mode, such as on a thread that was not started under it."""
        home = next(
            each for each in tensors_in((args, kwargs)) if isinstance(each, DeviceTensor)
        ).home
        return home(func, args, kwargs or {})

    def tolist(self) -> Any:
        """As of any tensor on a GPU; torch refuses it for all that are not plain."""
        return self.cpu().tolist()

    def __repr__(self, *, tensor_contents: object = None) -> str:  # type: ignore[override]
        return f"DeviceTensor({self.inner!r})"


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors of an op's arguments."""
    found: list[Tensor] = []
    _collect(value, found)
    return found


def _collect(value: Any, found: list[Tensor]) -> None:
    if isinstance(value, Tensor):
        found.append(value)
    elif isinstance(value, list | tuple):
        for each in value:
            _collect(each, found)
    elif isinstance(value, dict):
        for each in value.values():
            _collect(each, found)


def map_tensors(change: Callable[[Tensor], Any], value: Any) -> Any:
    """An op's arguments or results with other tensors."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, list | tuple):
        return type(value)([map_tensors(change, each) for each in value])
    if isinstance(value, dict):
        return {name: map_tensors(change, each) for name, each in value.items()}
    return value


def unwrapped(value: Tensor) -> Tensor:
    """Its data, wherever it is."""
    return value.inner if isinstance(value, DeviceTensor) else value
