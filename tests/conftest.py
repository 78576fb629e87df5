"""Seeds, skip reasons and clean global state for every test."""

import os
import random
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.helpers.simulated_cuda import SimulatedCuda, simulated_cuda

# No verdict may depend on how busy the machine is.
settings.register_profile(
    "any_machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any_machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The longest ones first, so that no worker is left with them at the end.
    items.sort(key=lambda item: "fault" not in item.path.parts)
    if torch.cuda.is_available() or os.environ.get("STARR_SIMULATED_CUDA"):
        return
    skip = pytest.mark.skip(reason="needs a CUDA device, and torch finds none here")
    for item in items:
        if item.get_closest_marker("gpu") is not None:
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def _clean_torch_state() -> Iterator[None]:
    """Same seeds for every test, whichever tests run; global settings are put back."""
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    is_deterministic = torch.are_deterministic_algorithms_enabled()
    matmul_precision = torch.get_float32_matmul_precision()
    random.seed(0)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(is_deterministic)
    torch.set_float32_matmul_precision(matmul_precision)


@pytest.fixture(scope="module")
def simulated_device() -> Iterator[SimulatedCuda]:
    """A CUDA device that is not there, for all tests of a module."""
    if torch.version.cuda is not None:
        pytest.skip("torch has CUDA itself")
    with simulated_cuda() as device:
        yield device
