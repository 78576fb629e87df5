"""The engine under each cache policy against the published procedure written out densely."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from starr_engine import LLM, RequestOutput, SamplingParams
from starr_engine.cache.base import CACHE_POLICIES
from starr_engine.errors import RequestError
from tests.helpers.engines import Reference, as_prompts, assert_same, make_llm, random_prompts
from tests.helpers.reference_caches import CachedOutput

CACHES: list[tuple[str, dict[str, Any]]] = [
    ("none", {}),
    ("none", {"suffix_window": 6}),
    ("none", {"suffix_window": 6, "suffix_tail": False}),
    ("prefix", {}),
    ("prefix", {"refresh_every": 3}),
    ("prefix", {"refresh": "never"}),
    ("prefix", {"suffix_window": 6}),
    ("prefix", {"suffix_window": 6, "refresh": "never"}),
    ("dual", {}),
    ("dual", {"refresh_every": 3}),
    ("dual", {"refresh": "never"}),
    ("dual", {"suffix_window": 6}),
    ("dual", {"suffix_window": 6, "suffix_tail": False, "refresh": "never"}),
    ("vicinity", {"look_back": 0, "look_ahead": 0}),
    ("vicinity", {"look_back": 3, "look_ahead": 2}),
    ("vicinity", {"look_back": 3, "look_ahead": 2, "warmup": 4}),
    ("vicinity", {"look_back": 3, "look_ahead": 2, "refresh": "never"}),
    ("vicinity", {"look_back": 3, "look_ahead": 2, "refresh_every": 2}),
    ("vicinity", {"look_back": 3, "look_ahead": 9, "suffix_window": 6}),
    ("vicinity", {}),
    ("delayed", {}),
    ("delayed", {"refresh_every": 3}),
    ("delayed", {"warmup": 1, "refresh_every": 4}),
    ("delayed", {"suffix_window": 6}),
    ("dllm", {}),
    ("dllm", {"prompt_interval": 5, "response_interval": 3}),
    ("dllm", {"prompt_interval": 4, "response_interval": 2, "ratio": 0.5}),
    ("dllm", {"ratio": 0.01}),
]
POLICIES: list[tuple[str, dict[str, Any]]] = [
    ("low_confidence", {}),
    ("low_confidence", {"tokens_per_step": 2}),
    ("threshold", {"threshold": 0.5}),
    ("starr", {}),
]
REVOKING = {"revoke_below": 0.3, "tau_min": 0.4, "c_slow": 0.2}
WHOLE_BLOCK = ("none", "prefix", "dual", "vicinity", "dllm")
"""Caches that compute every row of the block at every step, which revoking policies look at."""

NARROW = 2e-6
"""Below this gap, float32 and float64 may rightly choose different rows in ``dllm``."""


@pytest.fixture(scope="module")
def llm(folder: Path) -> LLM:
    """Remembers no canvas, so that rows are those of the request alone."""
    return make_llm(folder, canvas_cache=0)


def skip_missing(cache: str, args: dict[str, Any]) -> None:
    """Skip what the engine does not have yet."""
    try:
        CACHE_POLICIES.create(cache, args)
    except RequestError as error:
        pytest.skip(f"not in the engine yet: {error}")


def params_of(cache: str, args: dict[str, Any], **changes: Any) -> SamplingParams:
    """26 tokens, which none of the block lengths divides, EOS being like any token."""
    shape: dict[str, Any] = {"max_tokens": 26, "ignore_eos": True}
    return SamplingParams(cache=cache, cache_args=args, **(shape | changes))


def assert_equal(outputs: list[RequestOutput], expected: list[CachedOutput]) -> None:
    """Token for token, forward for forward and row for row."""
    clear = [
        (output, wanted)
        for output, wanted in zip(outputs, expected, strict=True)
        if wanted.narrowest > NARROW
    ]
    assert 2 * len(clear) > len(outputs)
    for output, wanted in clear:
        assert_same(output, wanted)
        assert output.computed_rows == wanted.computed_rows


@pytest.mark.parametrize("block_length", [4, 5, 8, 16])
@pytest.mark.parametrize(("cache", "args"), CACHES)
def test_a_cache_equals_its_published_procedure(
    llm: LLM, reference: Reference, cache: str, args: dict[str, Any], block_length: int
) -> None:
    skip_missing(cache, args)
    prompts = random_prompts(6 if (cache, args) == ("dual", {}) else 2, seed=block_length)
    outputs, expected = [], []
    for name, policy_args in POLICIES:
        params = params_of(
            cache, args, block_length=block_length, remasking=name, remasking_args=policy_args
        )
        outputs += llm.generate(as_prompts(prompts), params)
        expected += [reference.generate_cached(prompt, params) for prompt in prompts]
    assert_equal(outputs, expected)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize(("cache", "args"), [entry for entry in CACHES if entry[0] in WHOLE_BLOCK])
def test_a_cache_equals_its_procedure_under_a_policy_that_revokes(
    llm: LLM, reference: Reference, cache: str, args: dict[str, Any], temperature: float
) -> None:
    skip_missing(cache, args)
    prompts = random_prompts(3, seed=3)
    params = params_of(
        cache, args, block_length=8, remasking="starr", remasking_args=REVOKING,
        temperature=temperature, seed=11,
    )  # fmt: skip
    expected = [reference.generate_cached(prompt, params) for prompt in prompts]
    assert_equal(llm.generate(as_prompts(prompts), params), expected)


@pytest.mark.parametrize(("cache", "args"), CACHES)
def test_a_cache_equals_its_procedure_when_a_stop_token_ends_the_output(
    llm: LLM, reference: Reference, cache: str, args: dict[str, Any]
) -> None:
    skip_missing(cache, args)
    prompts = random_prompts(6, seed=4)
    params = params_of(
        cache, args, block_length=8, remasking="threshold", remasking_args={"threshold": 0.5},
        ignore_eos=False, stop_token_ids=tuple(range(20, 40)),
    )  # fmt: skip
    expected = [reference.generate_cached(prompt, params) for prompt in prompts]
    assert {"stop"} <= {wanted.finish_reason for wanted in expected}
    assert_equal(llm.generate(as_prompts(prompts), params), expected)


@pytest.mark.parametrize(
    ("cache", "args"), [entry for entry in CACHES if "suffix_window" not in entry[1]]
)
def test_a_cache_equals_its_procedure_in_a_template(
    llm: LLM, reference: Reference, cache: str, args: dict[str, Any]
) -> None:
    skip_missing(cache, args)
    parts: list[int | list[int]] = [6, [9, 8], 9, [7, 7, 7], 4, [11, 12]]
    template: list[int | None] = []
    for part in parts:
        template += [None] * part if isinstance(part, int) else part
    params = params_of(
        cache, args, block_length=8, remasking="threshold", remasking_args={"threshold": 0.5}
    )
    for prompt in random_prompts(3, seed=6):
        request = {"prompt_token_ids": prompt, "template": parts}
        expected = reference.generate_cached(prompt, params, template)
        [output] = llm.generate([request], params)
        if expected.narrowest > NARROW:
            assert_same(output, expected)
            assert output.computed_rows == expected.computed_rows


def test_caches_mixed_in_one_batch_each_equal_their_procedure(
    llm: LLM, reference: Reference
) -> None:
    present = []
    for cache, args in CACHES:
        try:
            CACHE_POLICIES.create(cache, args)
        except RequestError:
            continue
        present.append((cache, args))
    params = [
        params_of(
            cache, args, block_length=(4, 5, 8, 16)[at % 4],
            remasking=POLICIES[at % 3][0], remasking_args=POLICIES[at % 3][1],
        )
        for at, (cache, args) in enumerate(present * 2)
    ]  # fmt: skip
    prompts = random_prompts(len(params), seed=8)
    expected = [
        reference.generate_cached(prompt, wanted)
        for prompt, wanted in zip(prompts, params, strict=True)
    ]
    assert_equal(llm.generate(as_prompts(prompts), params), expected)
