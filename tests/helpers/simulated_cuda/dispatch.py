"""Every op on its way: where it runs, what it is noted as, and whether CUDA would take it."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.helpers.simulated_cuda.copies import Copies
from tests.helpers.simulated_cuda.graphs import Capture
from tests.helpers.simulated_cuda.kernels import KernelOf
from tests.helpers.simulated_cuda.log import Kind, Log
from tests.helpers.simulated_cuda.pinned import PinnedMemory
from tests.helpers.simulated_cuda.rules import (
    COPIES,
    check_devices,
    launches,
    waits,
)
from tests.helpers.simulated_cuda.tensors import (
    DeviceTensor,
    Heap,
    map_tensors,
    tensors_in,
    unwrapped,
)

_aten = torch.ops.aten

_WHOLE = {
    _aten.linear.default, _aten.matmul.default, _aten.scaled_dot_product_attention.default,
    _aten.rms_norm.default, _aten.layer_norm.default,
}  # fmt: skip
"""Composite ops that the CPU computes in one piece, so that both devices give the same numbers."""


class Dispatcher:
    """Runs the ops of one simulated device."""

    def __init__(self, kernel_of: KernelOf) -> None:
        self._kernel_of = kernel_of
        self.log = Log()
        self.heap = Heap()
        self.pinned = PinnedMemory()
        self.capture: Capture | None = None
        self.forbids_waits = False
        """See ``torch.cuda.set_sync_debug_mode``."""
        self.copies = Copies(self)
        self.generators: set[int] = set()
        """Addresses of those of the device."""

    def wait(self, name: str, upto: int | None = None) -> None:
        """The host waits for the device.

        Raises:
            RuntimeError: If a graph is being captured.
            HazardError: If the host has changed what was being copied.
        """
        if self.capture is not None:
            raise RuntimeError(f"{name}: operation not permitted when stream is capturing")
        if self.forbids_waits:
            raise RuntimeError(f"{name}: called a synchronizing CUDA operation")
        self.log.wait(name, upto)
        self.pinned.settle(self.log.num_done)

    def check_generator(self, func: Any, generator: Any) -> None:
        """Numbers on the device are drawn by a generator of the device.

        Raises:
            RuntimeError: If they are not.
        """
        if generator is not None and generator._cdata not in self.generators:
            raise RuntimeError(f"{func}: expected a 'cuda' generator but found 'cpu'")

    def __call__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an op on tensors of both kinds.

        Raises:
            RuntimeError: What CUDA would raise.
            HazardError: If the host reads what is on its way.
        """
        tensors = tensors_in((args, kwargs))
        on_device = any(isinstance(each, DeviceTensor) for each in tensors)
        target = next((each for each in args if isinstance(each, torch.device)), None)
        target = kwargs.get("device", target)
        goes_there = target is not None and torch.device(target).type == "cuda"
        if func not in _WHOLE and (on_device or goes_there) and _is_composite(func):
            with Mode(self):
                return func.decompose(*args, **kwargs)
        if func in COPIES:
            return self.copies(func, args, kwargs)
        if not (on_device or goes_there):
            return self._on_host(func, args, kwargs, tensors)
        check_devices(func, args, kwargs)
        if target is None or goes_there:
            self.check_generator(func, kwargs.get("generator"))
        name = str(func)
        if waits(func, args, kwargs):
            self.wait(name)
        elif launches(func):
            self.log.queue(Kind.LAUNCH, name)
        stays = target is None or goes_there
        return self.run(func, args, kwargs, wrap=stays)

    def run(self, func: Any, args: Any, kwargs: dict[str, Any], *, wrap: bool = True) -> Any:
        """The op on the data, its results on the device or not; nothing is noted."""
        kwargs = {name: value for name, value in kwargs.items() if name != "pin_memory"}
        if kwargs.get("device") is not None:
            kwargs["device"] = torch.device("cpu")
        inner_args, inner_kwargs = map_tensors(unwrapped, args), map_tensors(unwrapped, kwargs)
        kernel = self._kernel_of(func)
        if self.capture is not None:
            out = self.capture.run(func, kernel, inner_args, inner_kwargs)
        else:
            out = kernel(*inner_args, **inner_kwargs)
        if not wrap:
            return out
        known = {
            id(each.inner): each
            for each in tensors_in((args, kwargs))
            if isinstance(each, DeviceTensor)
        }

        def wrapped(each: Tensor) -> DeviceTensor:
            found = known.get(id(each))
            return DeviceTensor(each, self) if found is None else found

        # In inference mode a view of an ordinary tensor is one, too, and torch relies on it.
        is_ordinary = func.is_view and not all(each.is_inference() for each in known.values())
        if is_ordinary and torch.is_inference_mode_enabled():
            with torch.inference_mode(mode=False):
                return map_tensors(wrapped, out)
        return map_tensors(wrapped, out)

    def _on_host(self, func: Any, args: Any, kwargs: dict[str, Any], tensors: list[Tensor]) -> Any:
        if func in (_aten.is_pinned.default, _aten.pin_memory.default, _aten._pin_memory.default):
            return self._of_pinned(func, args[0])
        self.pinned.check_read(tensors, str(func))
        if not kwargs.get("pin_memory"):
            return func(*args, **kwargs)
        out = func(*args, **{name: value for name, value in kwargs.items() if name != "pin_memory"})
        return self.pinned.pin(out)

    def _of_pinned(self, func: Any, tensor: Tensor) -> bool | Tensor:
        is_pinned = self.pinned.is_pinned(tensor)
        if func is _aten.is_pinned.default:
            return is_pinned
        return tensor if is_pinned else self.pinned.pin(tensor.clone())


class Mode(TorchDispatchMode):
    """Sends all ops of a thread to a dispatcher."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        super().__init__()
        self._dispatcher = dispatcher

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """See the dispatcher."""
        return self._dispatcher(func, args, kwargs or {})


@functools.cache
def _is_composite(func: Any) -> bool:
    """Whether torch has it as other ops, which are looked at one by one."""
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key)
