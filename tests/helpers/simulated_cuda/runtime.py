"""What the engine calls of ``torch.cuda``, for the simulated device."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from tests.helpers.simulated_cuda.dispatch import Dispatcher
from tests.helpers.simulated_cuda.graphs import SimulatedGraph, capturing

NAME = "simulated"


class Properties(NamedTuple):
    """Of the device."""

    name: str
    total_memory: int
    major: int
    minor: int
    multi_processor_count: int


class SimulatedStream:
    """The only one, whatever its name."""

    home: Dispatcher

    def __init__(self, device: object = None, priority: int = 0) -> None:
        del device, priority

    def synchronize(self) -> None:
        """Wait for all that was queued."""
        self.home.wait("Stream.synchronize")

    def wait_stream(self, stream: object) -> None:
        """Nothing: all is in order."""

    def wait_event(self, event: object) -> None:
        """Nothing: all is in order."""

    def __enter__(self) -> SimulatedStream:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing."""


class SimulatedEvent:
    """A place in what was queued."""

    home: Dispatcher

    def __init__(self, enable_timing: bool = False, **_: object) -> None:
        self._at: int | None = None

    def record(self, stream: object = None) -> None:
        """Behind all that is queued now."""
        self._at = self.home.log.num_queued

    def synchronize(self) -> None:
        """Wait for what was queued before it."""
        if self._at is not None:
            self.home.wait("Event.synchronize", self._at)

    def query(self) -> bool:
        """Whether that is known to be done."""
        return self._at is None or self._at <= self.home.log.num_done

    def elapsed_time(self, other: object) -> float:
        """Milliseconds; nothing here takes time."""
        return 1.0


def generators_of(home: Dispatcher) -> type[torch.Generator]:
    """In place of ``torch.Generator``: generators for either device."""

    class SimulatedGenerator(torch.Generator):
        """Draws on the CPU; the device's are known by their address."""

        def __new__(cls, device: Any = "cpu") -> SimulatedGenerator:
            made = super().__new__(cls, "cpu")
            if torch.device(device).type == "cuda":
                home.generators.add(made._cdata)
            else:
                home.generators.discard(made._cdata)
            return made

        def __init__(self, device: Any = "cpu") -> None:
            pass

    return SimulatedGenerator


def stand_ins(
    home: Dispatcher, *, total_bytes: int, capability: tuple[int, int]
) -> dict[str, object]:
    """Everything that is put in place of functions and classes of ``torch.cuda``, by name."""
    heap = home.heap

    def of_home(kind: type) -> type:
        return type(kind.__name__, (kind,), {"home": home})

    def reset_peak(device: object = None) -> None:
        heap.peak = heap.allocated

    def forbid_waits(mode: int | str) -> None:
        home.forbids_waits = mode in (2, "error")

    @contextlib.contextmanager
    def nothing(*_: object, **__: object) -> Iterator[None]:
        yield

    stream = of_home(SimulatedStream)
    properties = Properties(NAME, total_bytes, *capability, 1)
    given: dict[str, Callable[..., object]] = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "get_device_name": lambda device=None: NAME,
        "get_device_capability": lambda device=None: capability,
        "get_device_properties": lambda device=None: properties,
        "mem_get_info": lambda device=None: (total_bytes - heap.allocated, total_bytes),
        "memory_allocated": lambda device=None: heap.allocated,
        "memory_reserved": lambda device=None: heap.allocated,
        "max_memory_allocated": lambda device=None: heap.peak,
        "reset_peak_memory_stats": reset_peak,
        "empty_cache": lambda: None,
        "synchronize": lambda device=None: home.wait("torch.cuda.synchronize"),
        "set_sync_debug_mode": forbid_waits,
        "current_stream": lambda device=None: stream(),
        "graph_pool_handle": lambda: (0, 0),
        "graph": capturing,
        "stream": nothing,
        "device": nothing,
        "Stream": stream,
        "Event": of_home(SimulatedEvent),
        "CUDAGraph": of_home(SimulatedGraph),
        "_lazy_init": lambda: None,
        "manual_seed_all": lambda seed: None,
    }
    return dict(given)
