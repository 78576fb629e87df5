"""Where kernels run: on a GPU, and on a simulated one that is always there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.helpers.simulated_kernels import ORDERS, simulated_kernels


@pytest.fixture(params=[pytest.param("cuda", marks=pytest.mark.gpu), *ORDERS])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """CUDA, or the CPU while the CUDA kernels run there, their threads in the named order."""
    if request.param == "cuda":
        yield torch.device("cuda")
        return
    with simulated_kernels(request.param):
        yield torch.device("cpu")
