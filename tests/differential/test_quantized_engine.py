"""An engine with quantised weights keeps what holds for any weights: batches and exact caches."""

from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

import pytest

from starr_engine import LLM, RequestOutput, SamplingParams
from starr_engine.cli.main import main
from starr_engine.engine.paging import PageKeeper
from tests.helpers.engines import (
    as_prompts,
    assert_all_pages_free,
    make_llm,
    random_prompts,
    sharp_checkpoint,
)

PARAMS = SamplingParams(
    max_tokens=24, remasking="threshold", remasking_args={"threshold": 0.7}, ignore_eos=True
)
QUESTION = "Mia has 7 apples and buys 5 more. How many apples does Mia have now?"
TEXTS = [QUESTION, "Sort: 9 4 7 1", QUESTION + " Explain."]


def tokens(outputs: list[RequestOutput]) -> list[tuple[tuple[int, ...], int]]:
    assert all(output.error is None for output in outputs)
    return [(output.token_ids, output.nfe) for output in outputs]


@pytest.fixture(scope="module")
def causal() -> LLM:
    return LLM("tiny-sdar", quantization="int8", num_threads=1, page_size=16)


def test_block_causal_gives_the_tokens_of_no_cache(causal: LLM) -> None:
    plain, cached, shared = (
        causal.generate(TEXTS, PARAMS.with_overrides({"cache": cache}))
        for cache in ("none", "block_causal", "block_causal")
    )
    assert tokens(plain) == tokens(cached) == tokens(shared)
    assert causal.engine.stats().prefix_hits > 0
    assert_all_pages_free(causal.engine)


def test_a_batch_gives_what_each_gives_alone(tmp_path: Path) -> None:
    llm = make_llm(sharp_checkpoint(tmp_path), quantization="int8", num_threads=1)
    prompts = as_prompts(random_prompts(4, seed=3))
    params = PARAMS.with_overrides({"block_length": 8})
    for cache in ("none", "dual"):
        asked = params.with_overrides({"cache": cache})
        alone = [llm.generate(prompt, asked)[0] for prompt in prompts]
        assert tokens(llm.generate(prompts, asked)) == tokens(alone)


def test_an_engine_says_that_its_weights_are_quantised(
    causal: LLM, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = LLM("tiny-sdar", num_threads=1)
    assert (causal.engine.config.quantization, plain.engine.config.quantization) == ("int8", "none")
    assert causal.engine.num_parameters == plain.engine.num_parameters
    assert main(["info", "--model", "tiny-sdar", "--quantization", "int8", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["model"]["weight bytes"]
    assert shown["float32"] == plain.engine.weight_bytes
    assert shown["int8 and float32"] == causal.engine.weight_bytes
    assert shown["int8 and float32"] < 0.35 * shown["float32"]


def test_kept_pages_are_not_those_of_the_same_model_unquantised() -> None:
    with mock.patch("starr_engine.engine.engine.PageKeeper", wraps=PageKeeper) as made:
        for quantization in ("none", "int8", "int8"):
            LLM("tiny-sdar", quantization=quantization, num_threads=1)
    plain, small, again = (call.kwargs["identity"] for call in made.call_args_list)
    assert plain != small
    assert small == again
