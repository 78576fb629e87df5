"""Where the tests of the GPU run: there, and on simulated ones.

Kernels always run on the simulated GPU of ``csrc/simt`` too. Everything else runs on the
simulated device of ``tests/helpers/simulated_cuda`` where there is no GPU and
``STARR_SIMULATED_CUDA`` is set.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from tests.helpers.simulated_kernels import simulated_kernels


@pytest.fixture(params=[pytest.param("cuda", marks=pytest.mark.gpu), "forward", "shuffled"])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """CUDA, or the CPU while the CUDA kernels run there, their threads in the named order."""
    if request.param == "cuda":
        yield torch.device("cuda")
        return
    with simulated_kernels(request.param):
        yield torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def _simulated_without_a_gpu(request: pytest.FixtureRequest) -> None:
    if os.environ.get("STARR_SIMULATED_CUDA") and not torch.cuda.is_available():
        request.getfixturevalue("simulated_device")
