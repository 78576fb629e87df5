"""The plans of a request simulated without a model are those that the engine carries out."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.plan_simulation import Shape, simulate
from starr_engine import LLM, SamplingParams
from starr_engine.cache.base import CACHE_POLICIES
from tests.helpers.checkpoints import llada_config, write_checkpoint
from tests.helpers.engines import make_llm
from tests.helpers.sdar_checkpoints import BLOCK_LENGTH, write_sdar_checkpoint

BIDIRECTIONAL: list[tuple[str, dict[str, Any]]] = [
    ("none", {}),
    ("none", {"suffix_window": 3}),
    ("prefix", {}),
    ("dual", {}),
    ("dual", {"refresh": "never"}),
    ("dual", {"refresh_every": 3, "suffix_window": 4}),
    ("vicinity", {"look_back": 2, "look_ahead": 3, "warmup": 2}),
    ("dual", {"isolate_prompt": True}),
    ("delayed", {}),
    ("delayed", {"refresh": "never", "refresh_every": None}),
    ("dllm", {}),
    ("dllm", {"prompt_interval": 9, "response_interval": 3}),
]
BLOCK_CAUSAL = ["none", "prefix", "dual", "vicinity", "delayed", "block_causal"]
PROMPT_LENS = (5, 16)


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    folder = write_checkpoint(tmp_path_factory.mktemp("llada"), llada_config())
    return make_llm(folder, page_size=8, canvas_cache=0, prefix_caching=False, num_threads=1)


@pytest.fixture(scope="module")
def block_causal_llm(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    folder = write_sdar_checkpoint(tmp_path_factory.mktemp("sdar"))
    return make_llm(folder, page_size=8, prefix_caching=False, num_threads=1)


def assert_counts_are_those_of_the_engine(
    llm: LLM, cache: str, args: dict[str, Any], shape: Shape
) -> None:
    params = SamplingParams(
        max_tokens=shape.max_tokens,
        block_length=shape.block_length,
        cache=cache,
        cache_args=args,
        ignore_eos=True,
    )
    prompt = [4 + at % 90 for at in range(shape.prompt_len)]
    [output] = llm.generate([{"prompt_token_ids": prompt}], params)
    steps = list(simulate(CACHE_POLICIES.create(cache, args), shape))
    assert output.nfe == len(steps) == shape.max_tokens
    assert output.computed_rows == sum(step.computed_rows for step in steps)
    assert steps[0].cached == ()
    assert steps[-1].block[1] == shape.prompt_len + shape.max_tokens


@pytest.mark.parametrize(("cache", "args"), BIDIRECTIONAL)
@pytest.mark.parametrize("prompt_len", PROMPT_LENS)
def test_rows_equal_those_of_a_bidirectional_model(
    llm: LLM, cache: str, args: dict[str, Any], prompt_len: int
) -> None:
    shape = Shape(prompt_len=prompt_len, max_tokens=21, block_length=8, num_layers=2)
    assert_counts_are_those_of_the_engine(llm, cache, args, shape)


@pytest.mark.parametrize("cache", BLOCK_CAUSAL)
@pytest.mark.parametrize("prompt_len", PROMPT_LENS)
def test_rows_equal_those_of_a_block_causal_model(
    block_causal_llm: LLM, cache: str, prompt_len: int
) -> None:
    shape = Shape(
        prompt_len=prompt_len, max_tokens=21, block_length=BLOCK_LENGTH, mask_block=True,
        num_layers=2,
    )  # fmt: skip
    assert_counts_are_those_of_the_engine(block_causal_llm, cache, {}, shape)


def test_the_dual_cache_computes_the_canvas_once_a_block_whatever_the_order() -> None:
    shape = Shape(prompt_len=512, max_tokens=256, block_length=32)
    policy = CACHE_POLICIES.create("dual", {})
    for seed in (None, 1):
        rows = [step.computed_rows for step in simulate(policy, shape, seed)]
        assert rows == ([768] + [32] * 31) * 8


def test_a_policy_that_waits_for_drift_cannot_be_simulated() -> None:
    policy = CACHE_POLICIES.create("dual", {"refresh": "drift", "drift_budget": 0.1})
    shape = Shape(prompt_len=4, max_tokens=8, block_length=8)
    with pytest.raises(ValueError, match="not known without a model"):
        next(simulate(policy, shape))
