"""The shipped model: the engine decodes shipped problems as the reference engine does."""

from __future__ import annotations

import json
from typing import Any

import pytest

import starr_engine
from starr_engine import LLM, SamplingParams
from starr_engine.models.loading.locate import resolve_model
from tests.helpers.engines import Reference, as_prompts, assert_same

MODEL = "tiny-llada"
MAX_TOKENS, BLOCK_LENGTH = 48, 16


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(MODEL, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(resolve_model(MODEL))


@pytest.fixture(scope="module")
def prompts(llm: LLM) -> list[list[int]]:
    """The first shipped problem of each task."""
    [package] = starr_engine.__path__
    first: dict[str, str] = {}
    with open(f"{package}/assets/problems.jsonl", encoding="utf-8") as lines:
        for line in lines:
            problem = json.loads(line)
            first.setdefault(problem["task"], problem["prompt"])
    assert len(first) == 5
    return [llm.tokenizer.encode(text) for text in first.values()]


def asked(cache: str, name: str, **changes: Any) -> SamplingParams:
    return SamplingParams(
        max_tokens=MAX_TOKENS, block_length=BLOCK_LENGTH, remasking=name, cache=cache, **changes
    )


@pytest.mark.parametrize(
    ("name", "args"),
    [("starr", {}), ("threshold", {"threshold": 0.9}), ("low_confidence", {"tokens_per_step": 4})],
)
def test_without_cache_the_shipped_model_decodes_as_the_reference(
    llm: LLM, reference: Reference, prompts: list[list[int]], name: str, args: dict[str, Any]
) -> None:
    params = asked("none", name, remasking_args=args)
    outputs = llm.generate(as_prompts(prompts), params)
    for prompt, output in zip(prompts, outputs, strict=True):
        assert_same(output, reference.generate(prompt, params))


@pytest.mark.parametrize("name", ["starr", "threshold", "low_confidence"])
def test_a_dual_cache_refreshed_at_every_step_decodes_as_no_cache(
    llm: LLM, prompts: list[list[int]], name: str
) -> None:
    exact = llm.generate(as_prompts(prompts), asked("none", name))
    always = llm.generate(as_prompts(prompts), asked("dual", name, cache_args={"refresh_every": 1}))
    for a, b in zip(always, exact, strict=True):
        assert (a.token_ids, a.nfe, a.text) == (b.token_ids, b.nfe, b.text)
