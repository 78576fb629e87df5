"""Copies within the device, to it and from it: what is queued, and what the host waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tests.helpers.simulated_cuda.log import Kind
from tests.helpers.simulated_cuda.tensors import DEVICE, DeviceTensor

if TYPE_CHECKING:
    from tests.helpers.simulated_cuda.dispatch import Dispatcher

_copy = torch.ops.aten.copy_.default
_to_copy = torch.ops.aten._to_copy.default


class Copies:
    """Runs ``copy_`` and ``_to_copy`` for a dispatcher."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def __call__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """The op's result.

        Raises:
            RuntimeError: If a graph is being captured that would read the host's memory.
            HazardError: If the host reads what is on its way.
        """
        if func is _copy:
            target, source, *rest = args
            is_queued = rest[0] if rest else kwargs.get("non_blocking", False)
            return self._copy(target, source, is_queued=is_queued)
        return self._converted(args[0], kwargs)

    def _converted(self, source: Tensor, kwargs: dict[str, Any]) -> Tensor:
        owner, device = self._dispatcher, kwargs.get("device")
        on_device = isinstance(source, DeviceTensor)
        goes_there = on_device if device is None else torch.device(device).type == "cuda"
        if not on_device:
            owner.pinned.check_read([source], "_to_copy")
        if on_device == goes_there:
            if on_device:
                owner.log.queue(Kind.LAUNCH, "_to_copy")
                made: Tensor = owner.run(_to_copy, (source,), kwargs)
                return made
            plain: Tensor = _to_copy(source, **kwargs)
            return plain
        is_queued, dtype = kwargs.get("non_blocking", False), kwargs.get("dtype") or source.dtype
        inner = source.inner if isinstance(source, DeviceTensor) else source
        room = torch.empty_like(inner, dtype=dtype)
        if goes_there:
            return self._copy(DeviceTensor(room, owner), source, is_queued=is_queued)
        if is_queued:
            room = owner.pinned.pin(room)
        return self._copy(room, source, is_queued=is_queued)

    def _copy(self, target: Tensor, source: Tensor, *, is_queued: bool) -> Tensor:
        owner = self._dispatcher
        if not isinstance(target, DeviceTensor):
            if not isinstance(source, DeviceTensor):
                owner.pinned.check_read([source, target], "copy_")
                return target.copy_(source)
            return self._down(target, source, is_queued=is_queued)
        if isinstance(source, DeviceTensor):
            owner.log.queue(Kind.LAUNCH, "copy_")
            owner.run(_copy, (target, source), {})
            return target
        return self._up(target, source, is_queued=is_queued)

    def _up(self, target: DeviceTensor, source: Tensor, *, is_queued: bool) -> Tensor:
        owner = self._dispatcher
        owner.pinned.check_read([source], "copy_")
        if owner.capture is not None:
            raise RuntimeError(f"a graph would read the host's memory again: copy_ to {DEVICE}")
        target.inner.copy_(source)
        if not source.numel():
            return target
        if is_queued and owner.pinned.is_pinned(source) and _is_one_piece(target.inner, source):
            owner.log.queue(Kind.UPLOAD, "copy_")
            owner.pinned.upload(source, owner.log.num_queued, "copy_")
        else:
            owner.wait("copy_ from the host")
        return target

    def _down(self, target: Tensor, source: DeviceTensor, *, is_queued: bool) -> Tensor:
        owner = self._dispatcher
        if owner.capture is not None:
            raise RuntimeError("a graph would write the host's memory again: copy_ to cpu")
        if not source.numel():
            return target
        if is_queued and owner.pinned.is_pinned(target) and _is_one_piece(target, source.inner):
            owner.log.queue(Kind.DOWNLOAD, "copy_")
            owner.pinned.download(target, source.inner, owner.log.num_queued)
        else:
            owner.wait("copy_ to the host")
            target.copy_(source.inner)
        return target


def _is_one_piece(target: Tensor, source: Tensor) -> bool:
    """Whether torch copies bytes as they lie; else it goes through memory that is not pinned."""
    return (
        target.dtype is source.dtype and target.is_contiguous() and source.is_contiguous()
        and target.shape == source.shape
    )  # fmt: skip
