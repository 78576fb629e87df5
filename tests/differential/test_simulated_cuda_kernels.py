"""The engine on a simulated CUDA device whose kernels are the CUDA sources, on a simulated GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from starr_engine import RequestOutput, SamplingParams
from starr_engine.config import EngineConfig
from starr_engine.engine.engine import Engine
from tests.helpers.engines import assert_all_pages_free, random_prompts, sharp_checkpoint
from tests.helpers.simulated_cuda import simulated_cuda
from tests.helpers.simulated_cuda.kernels import cuda_kernel
from tests.helpers.simulated_kernels import num_launches

KINDS: list[dict[str, Any]] = [
    {"cache": "dual", "remasking": "starr", "remasking_args": {"revoke_below": 0.3}},
    {"cache": "vicinity", "remasking": "starr", "temperature": 0.6, "seed": 3},
    {"cache": "prefix", "remasking": "threshold", "temperature": 0.8, "top_p": 0.9, "top_k": 30},
    {"cache": "dllm", "remasking": "low_confidence"},
]


@pytest.fixture(autouse=True)
def _gpu() -> Iterator[None]:
    if torch.version.cuda is not None:
        pytest.skip("torch has CUDA itself")
    with simulated_cuda(kernel_of=cuda_kernel):
        yield


def run(folder: Path, device: str) -> dict[str, tuple[Any, ...]]:
    engine = Engine(EngineConfig(model=str(folder), device=device, dtype="float32"))
    for n, (prompt, kind) in enumerate(zip(random_prompts(4, seed=2), KINDS, strict=True)):
        params = SamplingParams(max_tokens=16, block_length=8, ignore_eos=True, **kind)
        engine.add_request(prompt, params, str(n))
    found: dict[str, tuple[Any, ...]] = {}
    while engine.has_unfinished:
        for output in engine.step():
            if isinstance(output, RequestOutput):
                assert output.error is None
                confidence = pytest.approx(output.mean_log_confidence, abs=1e-4)
                found[output.request_id] = (output.token_ids, output.nfe, confidence)
    assert_all_pages_free(engine)
    return found


def test_an_engine_whose_kernels_are_the_cuda_sources_ends_the_same(tmp_path: Path) -> None:
    folder = sharp_checkpoint(tmp_path)
    expected = run(folder, "cpu")
    before = num_launches()
    assert run(folder, "cuda") == expected
    assert num_launches() - before > 100
