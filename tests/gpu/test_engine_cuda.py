"""The engine on CUDA against the engine on the CPU, and what it leaves in GPU memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from starr_engine import LLM, SamplingParams
from starr_engine.engine.memory import free_memory
from tests.helpers.engines import (
    as_prompts,
    assert_all_pages_free,
    make_llm,
    random_prompts,
    sharp_checkpoint,
)

pytestmark = pytest.mark.gpu

POLICIES: list[tuple[str, dict[str, Any]]] = [
    ("low_confidence", {}),
    ("low_confidence", {"num_steps_per_block": 3}),
    ("threshold", {"threshold": 0.6}),
    ("starr", {}),
    ("starr", {"patience": 2, "revoke_below": 0.3}),
    ("wino", {"tau1": 0.3, "tau2": 0.6}),
]
CACHES = ("none", "dual", "dllm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sharp_checkpoint(tmp_path_factory.mktemp("sharp"))


@pytest.fixture(scope="module")
def cpu(folder: Path) -> LLM:
    return make_llm(folder)


@pytest.fixture(scope="module")
def cuda(folder: Path) -> LLM:
    return make_llm(folder, device="cuda")


@pytest.fixture(autouse=True)
def _full_float32() -> None:
    # TF32 would round the factors of a product to 10 bits; the fixture of conftest puts it back.
    torch.set_float32_matmul_precision("highest")


def small(**changes: Any) -> SamplingParams:
    return SamplingParams(**({"max_tokens": 16, "block_length": 8, "ignore_eos": True} | changes))


def assert_same_outputs(cuda: LLM, cpu: LLM, params: list[SamplingParams]) -> None:
    prompts = as_prompts(random_prompts(len(params), seed=2))
    got, expected = cuda.generate(prompts, params), cpu.generate(prompts, params)
    for a, b in zip(got, expected, strict=True):
        assert (a.token_ids, a.nfe, a.finish_reason) == (b.token_ids, b.nfe, b.finish_reason)
        assert (a.computed_rows, a.cache_label) == (b.computed_rows, b.cache_label)


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize(("name", "args"), POLICIES)
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_float32_on_cuda_decodes_as_on_the_cpu(
    cuda: LLM, cpu: LLM, name: str, args: dict[str, Any], cache: str, temperature: float
) -> None:
    params = small(remasking=name, remasking_args=args, cache=cache, temperature=temperature)
    assert_same_outputs(cuda, cpu, [params] * 4)


def test_a_mixed_batch_of_sixteen_decodes_as_on_the_cpu(cuda: LLM, cpu: LLM) -> None:
    kinds = [(name, args, cache) for name, args in POLICIES for cache in CACHES]
    params = [
        small(
            max_tokens=8 * (1 + n % 3),
            block_length=(8, 4)[n % 2],
            remasking=name,
            remasking_args=args,
            cache=cache,
            temperature=(0.0, 0.0, 0.7)[n % 3],
            seed=n,
            ignore_eos=n % 4 > 0,
        )
        for n, (name, args, cache) in enumerate((kinds * 2)[:16])
    ]
    assert_same_outputs(cuda, cpu, params)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_rules_and_truncation_on_cuda_decode_as_on_the_cpu(
    cuda: LLM, cpu: LLM, temperature: float
) -> None:
    fields: list[dict[str, Any]] = [
        {"top_p": 0.8, "top_k": 7, "min_p": 0.05},
        {"repetition_penalty": 1.5, "presence_penalty": 0.5, "frequency_penalty": 0.25},
        {"logit_bias": {7: 3.0}, "min_tokens": 5, "stop_token_ids": (5, 6, 7)},
        {"allowed_token_ids": tuple(range(20, 40)), "logprobs": 3},
        {"suppress_eos": True},
        {"eos_last": True, "stop_token_ids": tuple(range(4, 40))},
    ]
    params = [small(temperature=temperature, cache=cache, **each)
              for each in fields for cache in CACHES]  # fmt: skip
    assert_same_outputs(cuda, cpu, params)


def test_many_requests_leave_no_memory_behind(cuda: LLM) -> None:
    params = [small(cache=cache, remasking=name) for name, _ in POLICIES for cache in CACHES]
    prompts = as_prompts(random_prompts(len(params), seed=1))

    def run_once() -> int:
        cuda.generate(prompts, params)
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()

    run_once()
    first = run_once()
    assert all(run_once() <= first for _ in range(10))
    pool = cuda.engine.page_pool
    pool.check_invariants()
    assert_all_pages_free(cuda.engine)


def test_aborting_frees_pages_and_memory(cuda: LLM) -> None:
    before = None
    for _ in range(3):
        with cuda.stream(as_prompts(random_prompts(8)), small(max_tokens=64)) as stream:
            next(stream)
        del stream
        torch.cuda.synchronize()
        left = torch.cuda.memory_allocated()
        assert before is None or left <= before
        before = left
    assert_all_pages_free(cuda.engine)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_decodes_whole_canvases_with_every_policy_and_cache(
    folder: Path, dtype: str
) -> None:
    llm = make_llm(folder, device="cuda", dtype=dtype)
    params = [
        small(remasking=name, remasking_args=args, cache=cache)
        for name, args in POLICIES
        for cache in CACHES
    ]
    for output in llm.generate(as_prompts(random_prompts(len(params))), params):
        assert output.finish_reason == "length"
        assert output.num_unmasked == len(output.token_ids) == 16
        assert all(0 <= token < 101 and token != 3 for token in output.token_ids)


def test_auto_takes_cuda_and_bfloat16(folder: Path) -> None:
    config = LLM(str(folder)).engine.config
    assert config.device.startswith("cuda")
    assert config.dtype == "bfloat16"


def test_a_fraction_of_the_free_gpu_memory_bounds_the_pool(folder: Path) -> None:
    free = free_memory(torch.device("cuda"))
    assert 0 < free <= torch.cuda.get_device_properties(0).total_memory
    # About a million bytes are 40 pages; all requests at full length would take 128.
    assert 20 < make_llm(folder, device="cuda", kv_memory=1e6 / free).engine.config.num_pages < 80
