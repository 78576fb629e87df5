"""The engine against the reference engine: without cache they are equal token for token."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from starr_engine import LLM, SamplingParams
from tests.helpers.engines import (
    Reference,
    as_prompts,
    assert_same,
    random_prompts,
)

POLICIES: list[tuple[str, dict[str, Any]]] = [
    ("low_confidence", {}),
    ("low_confidence", {"tokens_per_step": 3}),
    ("low_confidence", {"num_steps_per_block": 5}),
    ("threshold", {}),
    ("threshold", {"threshold": 0.5}),
    ("factor", {}),
    ("frechet", {"delta": 0.1}),
    ("eb_sampler", {"gamma": 0.5}),
    ("eb_sampler", {"gamma": 1.0, "order_by": "confidence"}),
    ("local_leap", {"threshold": 0.6, "relaxed": 0.3, "radius": 2}),
    ("starr", {}),
    ("starr", {"temporal_window": 1, "neighbour_window": 0}),
    ("starr", {"patience": 2, "relax": 0.1, "restart_on_flip": False}),
    ("starr", {"revoke_below": 0.3, "tau_min": 0.4, "c_slow": 0.2}),
    ("wino", {}),
    ("wino", {"tau1": 0.3, "tau2": 0.6, "cap_min": 2}),
]


@pytest.mark.parametrize(("name", "args"), POLICIES)
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_one_request_without_cache_equals_the_reference(
    llm: LLM, reference: Reference, name: str, args: dict[str, Any], temperature: float
) -> None:
    params = SamplingParams(
        max_tokens=24, block_length=8, remasking=name, remasking_args=args, cache="none",
        temperature=temperature, seed=11, ignore_eos=True,
    )  # fmt: skip
    for prompt in random_prompts(3, seed=5):
        [output] = llm.generate(as_prompts([prompt]), params)
        assert_same(output, reference.generate(prompt, params))
        assert output.cache_label == "exact"


def test_mixed_batches_in_random_order_equal_the_reference(llm: LLM, reference: Reference) -> None:
    # Every policy, several block lengths, temperatures and stop rules, at least sixteen at once.
    count = max(16, len(POLICIES))
    params = [
        SamplingParams(
            max_tokens=blocks * length,
            block_length=length,
            remasking=name,
            remasking_args=args,
            cache="none",
            temperature=temperature,
            seed=seed,
            ignore_eos=bool(seed % 2),
            stop_token_ids=(7, 8) if seed % 3 == 0 else (),
        )
        for seed, (name, args) in enumerate(POLICIES * 2)
        for blocks, length, temperature in [((1, 4, 0.0), (3, 8, 0.0), (2, 5, 1.0))[seed % 3]]
    ][:count]
    prompts = random_prompts(count, seed=9)
    expected = [reference.generate(p, q) for p, q in zip(prompts, params, strict=True)]
    for order_seed in range(3):
        order = np.random.default_rng(order_seed).permutation(count)
        outputs = llm.generate(as_prompts([prompts[i] for i in order]), [params[i] for i in order])
        for output, index in zip(outputs, order, strict=True):
            assert_same(output, expected[index])


def test_the_policies_differ_on_this_checkpoint(llm: LLM) -> None:
    # Otherwise the comparisons above would prove little.
    prompts = as_prompts(random_prompts(8, seed=5))
    costs = {
        (name, str(args)): sum(
            output.nfe
            for output in llm.generate(
                prompts,
                SamplingParams(
                    max_tokens=24,
                    block_length=8,
                    remasking=name,
                    remasking_args=args,
                    cache="none",
                    ignore_eos=True,
                ),
            )
        )
        for name, args in POLICIES
    }
    assert costs["low_confidence", "{}"] == 8 * 24
    assert len(set(costs.values())) >= 6, costs


@pytest.mark.parametrize("cache", ["none", "dual"])
def test_starr_with_its_terms_at_zero_is_the_threshold_policy(llm: LLM, cache: str) -> None:
    prompts = as_prompts(random_prompts(12, seed=3))
    for tau in (0.3, 0.6, 0.9):
        flat = {"alpha": 0, "beta": 0, "gamma": 0, "c_slow": 0, "c_fast": tau}
        shape = {"max_tokens": 24, "block_length": 8, "cache": cache, "ignore_eos": True}
        starr = SamplingParams(
            remasking="starr", remasking_args=flat | {"tau_min": tau, "tau_max": tau}, **shape
        )
        static = SamplingParams(remasking="threshold", remasking_args={"threshold": tau}, **shape)
        for a, b in zip(llm.generate(prompts, starr), llm.generate(prompts, static), strict=True):
            assert (a.token_ids, a.nfe) == (b.token_ids, b.nfe)


def test_starr_with_thresholds_out_of_reach_is_one_token_per_step(llm: LLM) -> None:
    prompts = as_prompts(random_prompts(12, seed=4))
    shape = {"max_tokens": 24, "block_length": 8, "cache": "none", "ignore_eos": True}
    never = {"tau_min": 2, "tau_max": 2, "c_fast": 2, "c_slow": 2}
    outputs = llm.generate(
        prompts, SamplingParams(remasking="starr", remasking_args=never, **shape)
    )
    single = llm.generate(prompts, SamplingParams(remasking="low_confidence", **shape))
    for a, b in zip(outputs, single, strict=True):
        assert (a.token_ids, a.nfe) == (b.token_ids, 24)
