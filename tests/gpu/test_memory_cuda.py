"""The pool that a GPU gets: what the largest step leaves, and the step still fits then."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from starr_engine import SamplingParams
from starr_engine.engine.profiling import measured_bytes, run_step, worst_step
from tests.helpers.engines import as_prompts, make_llm, random_prompts, sharp_checkpoint

pytestmark = pytest.mark.gpu


def test_the_largest_step_is_measured_and_leaves_nothing_behind(tmp_path: Path) -> None:
    llm = make_llm(sharp_checkpoint(tmp_path), device="cuda")
    executor, config = llm.engine.executor, llm.engine.config
    device = torch.device("cuda")
    before = torch.cuda.memory_allocated()
    few = worst_step(config, llm.engine.spec)
    taken = measured_bytes(device, lambda: run_step(executor.model, executor.backends, few))
    assert taken > few.num_rows * llm.engine.spec.hidden_size * 4
    assert torch.cuda.memory_allocated() == before


def test_auto_takes_most_of_the_gpu_and_steps_still_fit(tmp_path: Path) -> None:
    # So many requests that the pages asked for are more than there are.
    llm = make_llm(sharp_checkpoint(tmp_path), device="cuda", max_num_requests=200_000)
    config = llm.engine.config
    total = torch.cuda.get_device_properties(0).total_memory
    assert llm.engine.keeper.num_usable < 200_000 * 8
    assert torch.cuda.mem_get_info()[0] < total / 2
    params = SamplingParams(max_tokens=64, block_length=32)
    prompts = as_prompts(random_prompts(256))
    assert all(output.error is None for output in llm.generate(prompts, params))
    assert config.kv_memory == 0.95
