"""Prompts that see themselves alone: what they compute, and who shares it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from starr_engine import LLM, RequestOutput, SamplingParams
from tests.helpers.engines import (
    as_prompts,
    assert_all_pages_free,
    assert_same,
    make_llm,
    random_prompts,
)
from tests.helpers.llada_reference import LLaDAReference
from tests.helpers.reference_engine import reference_generate

PARAMS = SamplingParams(
    max_tokens=24, block_length=8, remasking="threshold", remasking_args={"threshold": 0.5},
    cache="dual", cache_args={"isolate_prompt": True}, ignore_eos=True,
)  # fmt: skip
PROMPT = list(range(10, 30))


@pytest.fixture
def llm(folder: Path) -> Iterator[LLM]:
    made = make_llm(folder, page_size=8, num_threads=1)
    yield made
    assert_all_pages_free(made.engine)


def ask(llm: LLM, ids: Sequence[int] = PROMPT, **changes: Any) -> RequestOutput:
    [output] = llm.generate(as_prompts([ids]), PARAMS.with_overrides(changes))
    return output


@pytest.mark.parametrize("cache", ["dual", "prefix", "delayed"])
def test_with_a_refresh_at_each_step_it_is_the_model_under_that_mask(
    llm: LLM, folder: Path, cache: str
) -> None:
    config = json.loads((folder / "config.json").read_text())
    model = LLaDAReference.from_folder(folder, config)
    args = {"isolate_prompt": True, "refresh_every": 1}
    for prompt in random_prompts(5, seed=3):
        visible = np.ones((len(prompt) + 24,) * 2, np.bool_)
        visible[: len(prompt), len(prompt) :] = False
        output = ask(llm, prompt, cache=cache, cache_args=args)
        expected = reference_generate(
            lambda canvas, seen=visible: model.logits(canvas, visible=seen),
            prompt, PARAMS, config["mask_token_id"], [config["eos_token_id"]],
        )  # fmt: skip
        assert_same(output, expected)
        assert output.cache_label == "approximate: isolated prompt"


@pytest.mark.parametrize("refresh", [{}, {"refresh": "never"}, {"refresh_every": 2}])
def test_a_hit_gives_what_a_miss_gives(llm: LLM, refresh: dict[str, Any]) -> None:
    args = {"isolate_prompt": True, **refresh}
    cold, warm = (ask(llm, cache_args=args) for _ in range(2))
    other_salt = ask(llm, cache_args=args, cache_salt="other")
    assert cold.token_ids == warm.token_ids == other_salt.token_ids
    # 20 prompt rows are two whole pages of 8 and a part of one.
    assert (cold.num_cached_tokens, warm.num_cached_tokens) == (0, 16)
    assert warm.computed_rows == cold.computed_rows - 16
    assert other_salt.num_cached_tokens == 0


def test_only_the_same_whole_prompt_is_shared(llm: LLM) -> None:
    ask(llm)
    assert ask(llm, [*PROMPT, 5]).num_cached_tokens == 0
    assert ask(llm, PROMPT[:16]).num_cached_tokens == 0
    assert ask(llm, cache_args={}).num_cached_tokens == 0
    # Every knob but the prompt's own may differ.
    assert ask(llm, max_tokens=9, cache="vicinity").num_cached_tokens == 16


def test_refreshes_leave_the_prompt_out(llm: LLM) -> None:
    output = ask(llm, remasking="low_confidence", remasking_args={})
    # Three blocks of 8 steps: all 44 rows, then twice the 24 behind the prompt, and 21 blocks.
    assert output.computed_rows == 44 + 2 * 24 + 21 * 8


def test_batches_of_mixed_requests_give_what_each_gives_alone(llm: LLM) -> None:
    prompts = random_prompts(8, seed=6)
    asked = [
        PARAMS.with_overrides({"seed": n, "temperature": 0.5 * (n % 2),
                               "cache_args": {"isolate_prompt": n % 3 > 0}})
        for n in range(8)
    ]  # fmt: skip
    alone = [llm.generate(as_prompts([p]), q)[0] for p, q in zip(prompts, asked, strict=True)]
    for seed in range(2):
        order = np.random.default_rng(seed).permutation(8)
        outputs = llm.generate(as_prompts([prompts[i] for i in order]), [asked[i] for i in order])
        assert [o.token_ids for o in outputs] == [alone[i].token_ids for i in order]


def test_the_output_says_how_far_it_is_off_unless_told_not_to(llm: LLM) -> None:
    outputs = llm.generate(as_prompts(random_prompts(12, seed=8)), PARAMS)
    found = [output.drift for output in outputs if output.drift is not None]
    assert len(found) == 12
    assert sum(drift.probe_forwards for drift in found) > 0
    assert any(drift.mean_kl for drift in found if drift.mean_kl is not None)
    assert ask(llm, cache_probe_rate=0.0).drift is None
    assert ask(llm, cache_args={}).drift is None
