"""What records a step: CUDA graphs, and a stand-in that runs the step again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import torch

Run = Callable[[], None]
"""Reads and writes tensors that it keeps, and returns nothing."""

_WARM_UPS: Final = 2
"""Runs before a recording, in which libraries choose kernels and take their workspaces."""


class Recorder(Protocol):
    """Makes replays of runs."""

    def __call__(self, run: Run) -> Run:
        """What does the same as ``run`` from now on, on whatever its tensors hold then."""
        ...


class RerunRecorder:
    """Runs the step again where there are no CUDA graphs: for tests of all that is around them."""

    def __call__(self, run: Run) -> Run:
        """``run`` itself."""
        return run


class CudaGraphRecorder:
    """CUDA graphs that share one pool of memory: they run one after another, on one stream.

    Args:
        device: Where the tensors are.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Run) -> Run:
        """Warm up, and record.

        Raises:
            RuntimeError: If something in ``run`` cannot be recorded, such as a wait for the device.
        """
        with torch.cuda.device(self._device):
            current = torch.cuda.current_stream()
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(current)
            with torch.cuda.stream(side):
                for _ in range(_WARM_UPS):
                    run()
            current.wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            # Other threads may use the device meanwhile: theirs are other engines.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                run()
        replay: Run = graph.replay
        return replay
