"""Gaps and templates in the engine against the reference engine, alone and in mixed batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from starr_engine import LLM, RequestOutput, SamplingParams
from tests.helpers.engines import (
    Reference,
    as_prompts,
    assert_same,
    random_prompts,
)

Parts = list[int | list[int]]
"""A template as users write it: fixed ids, and numbers of masks."""

POLICIES: list[tuple[str, dict[str, Any]]] = [
    ("low_confidence", {}),
    ("low_confidence", {"tokens_per_step": 3}),
    ("threshold", {"threshold": 0.5}),
    ("starr", {}),
    ("starr", {"revoke_below": 0.3, "tau_min": 0.4, "c_slow": 0.2}),
]
ALWAYS_REVOKED = ("starr", {"revoke_below": 1.0, "c_slow": 0, "tau_min": 0, "tau_max": 0,
                            "c_fast": 0})  # fmt: skip
CACHES: list[tuple[str, dict[str, Any]]] = [
    ("none", {}),
    ("dual", {}),
    ("dual", {"refresh_every": 1}),
    ("dual", {"refresh_every": 2}),
]


def random_parts(rng: np.random.Generator) -> Parts:
    """One to six fixed runs and gaps in any order, at least one gap; fixed runs of up to 9 ids."""
    parts: Parts = [int(rng.integers(1, 8))]
    for _ in range(rng.integers(6)):
        fixed: list[int] = rng.integers(4, 101, rng.integers(1, 10)).tolist()
        parts.append(fixed if rng.random() < 0.5 else len(fixed))
    return [parts[i] for i in rng.permutation(len(parts))]


def spelled(parts: Parts) -> list[int | None]:
    """Parts as the engine takes them."""
    spelled: list[int | None] = []
    for part in parts:
        spelled += [None] * part if isinstance(part, int) else part
    return spelled


def prompt_of(prompt: Sequence[int], parts: Parts) -> dict[str, Any]:
    return {"prompt_token_ids": list(prompt), "template": parts}


def assert_fixed_stayed(output: RequestOutput, prompt: Sequence[int], parts: Parts) -> None:
    """Every fixed token of the output is where it was, and only masks were counted."""
    canvas = [*prompt, *spelled(parts)]
    assert list(output.prompt_token_ids) == canvas[: canvas.index(None)]
    region = canvas[len(output.prompt_token_ids) :]
    while region[-1] is not None:
        region.pop()
    assert len(output.token_ids) == len(region)
    for token, given in zip(output.token_ids, region, strict=True):
        assert given is None or token == given
        assert token not in (1, 3) or given is not None  # EOS and the mask
    assert output.num_unmasked == region.count(None)
    assert output.finish_reason == "length"


@pytest.mark.parametrize(("name", "args"), POLICIES)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_without_cache_one_template_is_filled_as_by_the_reference(
    llm: LLM, reference: Reference, name: str, args: dict[str, Any], temperature: float
) -> None:
    params = SamplingParams(
        block_length=6, remasking=name, remasking_args=args, cache="none",
        temperature=temperature, seed=7,
    )  # fmt: skip
    rng = np.random.default_rng(3)
    for prompt in random_prompts(4, seed=6):
        parts = random_parts(rng)
        [output] = llm.generate([prompt_of(prompt, parts)], params)
        assert_same(output, reference.generate(prompt, params, spelled(parts)))
        assert_fixed_stayed(output, prompt, parts)


@pytest.mark.parametrize("suffix", [[], [9], list(range(20, 40))])
def test_a_gap_is_filled_as_by_the_reference_one_token_per_step(
    llm: LLM, reference: Reference, suffix: list[int]
) -> None:
    params = SamplingParams(block_length=5, remasking="low_confidence", cache="none")
    for prefix in [*random_prompts(3, seed=2), []]:
        if not prefix + suffix:
            continue
        given = {"prefix_token_ids": prefix, "suffix_token_ids": suffix, "gap": 12}
        [output] = llm.generate([given], params)
        assert_same(output, reference.generate(prefix, params, [*[None] * 12, *suffix]))
        assert (output.nfe, output.num_unmasked, len(output.token_ids)) == (12, 12, 12)
        assert list(output.prompt_token_ids) == prefix


def test_any_number_of_tokens_is_generated_with_a_shorter_last_block(
    llm: LLM, reference: Reference
) -> None:
    [prompt] = random_prompts(1, seed=8)
    for max_tokens in (1, 7, 8, 9, 17):
        for name, args in POLICIES:
            params = SamplingParams(
                max_tokens=max_tokens, block_length=8, remasking=name, remasking_args=args,
                cache="none", ignore_eos=True,
            )  # fmt: skip
            [output] = llm.generate(as_prompts([prompt]), params)
            assert_same(output, reference.generate(prompt, params))
            assert len(output.token_ids) == max_tokens


def test_mixed_batches_with_ordinary_prompts_equal_the_reference(
    llm: LLM, reference: Reference
) -> None:
    rng = np.random.default_rng(12)
    prompts = random_prompts(16, seed=9)
    every = [random_parts(rng) if n % 3 else None for n in range(16)]
    params = [
        SamplingParams(
            max_tokens=13,
            block_length=(4, 8, 5)[n % 3],
            remasking=name,
            remasking_args=args,
            cache="none",
            temperature=(0.0, 0.9)[n % 2],
            seed=n,
        )
        for n, (name, args) in enumerate((POLICIES * 4)[:16])
    ]
    expected = [
        reference.generate(prompt, wanted, None if parts is None else spelled(parts))
        for prompt, wanted, parts in zip(prompts, params, every, strict=True)
    ]
    asked = [
        {"prompt_token_ids": prompt} if parts is None else prompt_of(prompt, parts)
        for prompt, parts in zip(prompts, every, strict=True)
    ]
    for order_seed in range(3):
        order = np.random.default_rng(order_seed).permutation(16)
        outputs = llm.generate([asked[i] for i in order], [params[i] for i in order])
        for output, index in zip(outputs, order, strict=True):
            assert_same(output, expected[index])


@pytest.mark.parametrize(("cache", "cache_args"), CACHES)
@pytest.mark.parametrize(("name", "args"), [*POLICIES, ALWAYS_REVOKED])
def test_fixed_tokens_never_change_and_every_plan_is_accepted(
    llm: LLM, cache: str, cache_args: dict[str, Any], name: str, args: dict[str, Any]
) -> None:
    # The engine hands every plan to the checks in C++, which raise for one that breaks a rule.
    rng = np.random.default_rng(5)
    prompts = random_prompts(12, seed=14)
    every = [random_parts(rng) for _ in prompts]
    params = SamplingParams(
        block_length=4, remasking=name, remasking_args=args, cache=cache, cache_args=cache_args
    )
    asked = [prompt_of(prompt, parts) for prompt, parts in zip(prompts, every, strict=True)]
    for output, prompt, parts in zip(llm.generate(asked, params), prompts, every, strict=True):
        assert_fixed_stayed(output, prompt, parts)
        assert output.nfe >= 1
        assert "revoke_below" in args or output.nfe <= output.num_unmasked


def test_a_cache_refreshed_at_every_step_fills_as_no_cache(llm: LLM) -> None:
    rng = np.random.default_rng(6)
    prompts = random_prompts(12, seed=15)
    asked = [prompt_of(prompt, random_parts(rng)) for prompt in prompts]
    exact, always = (
        llm.generate(asked, SamplingParams(block_length=4, cache=cache, cache_args=cache_args))
        for cache, cache_args in (CACHES[0], CACHES[2])
    )
    assert [(a.token_ids, a.nfe) for a in always] == [(b.token_ids, b.nfe) for b in exact]


def test_a_block_of_fixed_tokens_alone_costs_no_forward(llm: LLM) -> None:
    params = SamplingParams(block_length=4, remasking="low_confidence", cache="dual")
    parts: Parts = [4, list(range(10, 18)), 4]
    blocks = []
    with llm.stream([prompt_of([5, 6], parts)], params) as stream:
        for output in stream:
            if isinstance(output, RequestOutput):
                result = output
            else:
                blocks.append((output.block_index, output.token_ids))
    assert (result.nfe, result.num_unmasked) == (8, 8)
    assert [index for index, _ in blocks] == [0, 3]
    assert blocks[0][1][4:] == tuple(range(10, 18))
    assert blocks[0][1] + blocks[1][1] == result.token_ids
