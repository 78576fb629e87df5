"""A CUDA device that is not there, on a CPU build of torch, for tests of what surrounds kernels."""

from tests.helpers.simulated_cuda.device import SimulatedCuda, simulated_cuda
from tests.helpers.simulated_cuda.log import Event, Kind, Log, Recorded
from tests.helpers.simulated_cuda.pinned import HazardError
from tests.helpers.simulated_cuda.tensors import DeviceTensor

__all__ = [
    "DeviceTensor", "Event", "HazardError", "Kind", "Log", "Recorded", "SimulatedCuda",
    "simulated_cuda",
]  # fmt: skip
