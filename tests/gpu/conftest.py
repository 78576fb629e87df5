"""Where there is no GPU and ``STARR_SIMULATED_CUDA`` is set, tests run on the simulated device."""

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def _simulated_without_a_gpu(request: pytest.FixtureRequest) -> None:
    if not torch.cuda.is_available():
        request.getfixturevalue("simulated_device")
