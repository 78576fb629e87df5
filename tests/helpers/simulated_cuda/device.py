"""The simulated device as a whole, for as long as a test needs it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch

from tests.helpers.simulated_cuda.dispatch import Dispatcher, Mode
from tests.helpers.simulated_cuda.guard import load_guard
from tests.helpers.simulated_cuda.kernels import KernelOf, cpu_kernel
from tests.helpers.simulated_cuda.log import Log
from tests.helpers.simulated_cuda.runtime import generators_of, stand_ins


class SimulatedCuda:
    """One GPU that is not there.

    Tensors on ``cuda`` lie in the memory of the CPU, and ops on them run at once. What an op would
    need on a GPU is checked: where its tensors are, and that no copy is read or overwritten before
    the host has waited for it. What is queued and what the host waits for is noted.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    @property
    def log(self) -> Log:
        """What happened."""
        return self._dispatcher.log

    def settle(self) -> None:
        """See that no copy under way was spoiled; the host waits for nothing.

        Raises:
            HazardError: If one was.
        """
        self._dispatcher.pinned.settle(self.log.num_queued)


@contextmanager
def simulated_cuda(
    *,
    total_bytes: int = 256 << 20,
    capability: tuple[int, int] = (9, 0),
    kernel_of: KernelOf = cpu_kernel,
) -> Iterator[SimulatedCuda]:
    """torch has a GPU inside, on this thread and those that start inside.

    Args:
        total_bytes: Memory of the device.
        capability: Of its kernels.
        kernel_of: What stands for them.

    Raises:
        HazardError: At the end, if a copy was spoiled.
    """
    load_guard()
    home = Dispatcher(kernel_of)
    device = SimulatedCuda(home)
    run = threading.Thread.run

    def run_there(self: threading.Thread) -> None:
        with Mode(home):
            run(self)

    names = stand_ins(home, total_bytes=total_bytes, capability=capability)
    with (
        mock.patch.multiple(torch.cuda, **names),
        mock.patch.object(torch, "Generator", generators_of(home)),
        mock.patch.object(threading.Thread, "run", run_there),
        _plain_numbers_first(),
        Mode(home),
    ):
        yield device
    device.settle()


@contextmanager
def _plain_numbers_first() -> Iterator[None]:
    """``torch.tensor`` makes its tensor on the CPU, and copies it by an op that can be seen."""
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        yield
    finally:
        torch._C._set_only_lift_cpu_tensors(before)
