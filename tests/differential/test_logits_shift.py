"""Models that predict a token from the row in front of it, against the dense twins."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from starr_engine import LLM, RequestError, SamplingParams
from tests.helpers.engines import (
    Reference,
    as_prompts,
    assert_all_pages_free,
    assert_same,
    make_llm,
    random_prompts,
    sharp_checkpoint,
)
from tests.helpers.reference_caches import DEFAULTS
from tests.helpers.reference_engine import reference_generate

SHIFT = {"logits_shift": True}
CACHES: list[tuple[str, dict[str, Any]]] = [
    ("none", {"suffix_window": 6}),
    ("prefix", {}),
    ("dual", {}),
    ("dual", {"refresh": "never"}),
    ("vicinity", {"look_back": 3, "look_ahead": 2}),
    ("delayed", {}),
    ("dllm", {"prompt_interval": 5, "response_interval": 3, "ratio": 0.5}),
]
PARAMS = SamplingParams(
    max_tokens=26, block_length=8, remasking="threshold", remasking_args={"threshold": 0.5},
    ignore_eos=True,
)  # fmt: skip
PROMPTS = random_prompts(5, seed=31)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sharp_checkpoint(tmp_path_factory.mktemp("shifted"))


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    return Reference(folder, shift=1)


@pytest.fixture(scope="module")
def llm(folder: Path) -> LLM:
    return make_llm(folder, SHIFT, page_size=8, canvas_cache=0)


@pytest.mark.parametrize(("cache", "args"), CACHES)
def test_every_cache_equals_its_procedure_with_the_row_in_front(
    llm: LLM, reference: Reference, cache: str, args: dict[str, Any]
) -> None:
    for changes in ({}, {"remasking": "starr", "remasking_args": {}}):
        params = PARAMS.with_overrides({"cache": cache, "cache_args": args} | changes)
        for prompt, output in zip(PROMPTS, llm.generate(as_prompts(PROMPTS), params), strict=True):
            expected = reference.generate_cached(prompt, params)
            if expected.narrowest < 2e-6:
                continue  # float32 and float64 may rightly choose different rows
            assert_same(output, expected)
            assert output.computed_rows == expected.computed_rows


def test_the_shift_matters(folder: Path, llm: LLM) -> None:
    plain = make_llm(folder).generate(as_prompts(PROMPTS), PARAMS)
    shifted = llm.generate(as_prompts(PROMPTS), PARAMS)
    assert all(a.token_ids != b.token_ids for a, b in zip(plain, shifted, strict=True))


@pytest.mark.parametrize("policy", ["low_confidence", "wino"])
def test_templates_are_filled_from_the_rows_in_front(
    llm: LLM, reference: Reference, policy: str
) -> None:
    parts: list[int | list[int]] = [[5, 6], 6, [9, 8], 9, [7, 7, 7], 4, [8]]
    template: list[int | None] = []
    for part in parts:
        template += [None] * part if isinstance(part, int) else part
    params = SamplingParams(block_length=8, remasking=policy, cache="dual")
    prompt = {"prompt_token_ids": PROMPTS[0], "template": parts}
    if policy == "wino":
        with pytest.raises(RequestError, match="checks a token by a second row in its place"):
            llm.generate([prompt], params)
        return
    [output] = llm.generate([prompt], params)
    assert_same(output, reference.generate_cached(PROMPTS[0], params, template))


def test_nothing_is_generated_at_the_very_beginning(llm: LLM) -> None:
    with pytest.raises(RequestError, match="put at least one token there"):
        llm.engine.add_request([], PARAMS, template=[None, None, 5])
    llm.engine.add_request([], PARAMS, "mine", template=[5, None, None])
    llm.engine.abort("mine")


def test_mixed_batches_in_random_order_give_what_each_request_gives_alone(folder: Path) -> None:
    llm = make_llm(folder, SHIFT, page_size=8, num_pages=40)
    settings = [
        PARAMS.with_overrides({"cache": name, "seed": seed, "temperature": 0.7 * (seed % 2),
                               "logprobs": 2, "cache_probe_rate": 0.3,
                               "remasking": "credit" if seed % 2 else "threshold",
                               "remasking_args": {}})
        for seed, name in enumerate(DEFAULTS)
    ]  # fmt: skip
    order = list(range(len(settings)))
    random.Random(5).shuffle(order)
    prompts = as_prompts(random_prompts(len(settings), seed=9))
    alone = [llm.generate([prompts[i]], settings[i])[0] for i in order]
    mixed = llm.generate([prompts[i] for i in order], [settings[i] for i in order])
    for one, many in zip(alone, mixed, strict=True):
        assert one.error is None
        assert (one.token_ids, one.nfe) == (many.token_ids, many.nfe)
        assert one.drift is not None
        assert many.drift is not None
        assert one.drift.mean_kl == pytest.approx(many.drift.mean_kl, abs=1e-6)
        assert [entry.token_id for entry in one.logprobs or ()] == list(one.token_ids)
    assert_all_pages_free(llm.engine)


@pytest.mark.parametrize("cache", ["dual", "delayed"])
def test_the_last_row_of_an_isolated_prompt_is_read_whoever_wrote_it(
    folder: Path, reference: Reference, cache: str
) -> None:
    llm = make_llm(folder, SHIFT, page_size=8)
    params = PARAMS.with_overrides(
        {"cache": cache, "cache_args": {"isolate_prompt": True, "refresh_every": 1}}
    )
    for prompt in (PROMPTS[0][:1] * 16, PROMPTS[1][:1] * 19):  # it may lie in a page that is shared
        visible = np.ones((len(prompt) + 26,) * 2, np.bool_)
        visible[: len(prompt), len(prompt) :] = False
        expected = reference_generate(
            lambda canvas, seen=visible: reference.model.logits(canvas, visible=seen),
            prompt, params, 3, [1], shift=1,
        )  # fmt: skip
        for num_cached in (0, 16):
            [output] = llm.generate(as_prompts([prompt]), params)
            assert output.num_cached_tokens == num_cached
            assert_same(output, expected)


def test_samples_of_one_prompt_share_their_first_step_and_nothing_changes(folder: Path) -> None:
    params = PARAMS.with_overrides({"n": 3, "temperature": 0.8, "cache": "dual", "seed": 4})
    with_cache = make_llm(folder, SHIFT, page_size=8)
    without = make_llm(folder, SHIFT, page_size=8, canvas_cache=0)
    one, other = (
        each.generate(as_prompts(PROMPTS[:1]), params)[0] for each in (with_cache, without)
    )
    assert with_cache.stats().canvas_hits == 2
    assert [s.token_ids for s in one.samples] == [s.token_ids for s in other.samples]
