"""What the authors of LLaDA2.0 and 2.1 published as generation, against the engine."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from starr_engine import LLM, RequestOutput, SamplingParams
from tests.helpers.engines import as_prompts, assert_all_pages_free, make_llm
from tests.helpers.llada2_checkpoints import (
    BLOCK_LENGTH,
    MASK_TOKEN_ID,
    llada2_config,
    sharp_llada2_checkpoint,
)
from tests.helpers.llada2_reference import LLaDA2Reference
from tests.helpers.reference_engine import LogitsOf
from tests.helpers.reference_llada2 import published_llada2_0, published_llada2_1

ENDS = tuple(range(20, 26))
"""Stand for EOS, which a random model with one such token seldom writes."""

LENGTHS = [3, 8, 13, 23]
"""Of prompts: inside a block of the mask, and at its end."""


class Twin:
    """A sharp random checkpoint and its dense logits."""

    def __init__(self, folder: Path) -> None:
        self.folder = sharp_llada2_checkpoint(folder)
        model = LLaDA2Reference.from_folder(folder, llada2_config())
        remembered = functools.lru_cache(maxsize=None)(model.logits)
        self.logits: LogitsOf = lambda canvas: remembered(tuple(canvas))


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Twin:
    return Twin(tmp_path_factory.mktemp("llada2"))


@pytest.fixture(scope="module")
def llm(twin: Twin) -> LLM:
    return make_llm(twin.folder)


def prompts_for(seed: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(30, 101, length).tolist() for length in LENGTHS]


def room(prompt: list[int]) -> int:
    """Tokens to the end of the second block behind the prompt's last whole one."""
    return 2 * BLOCK_LENGTH - len(prompt) % BLOCK_LENGTH


def generate(llm: LLM, prompts: list[list[int]], **fields: Any) -> list[RequestOutput]:
    """All prompts in one ragged batch, each with room to the end of a block."""
    params = [
        SamplingParams(**({"max_tokens": room(prompt), "ignore_eos": True} | fields))
        for prompt in prompts
    ]
    return llm.generate(as_prompts(prompts), params)


@pytest.mark.parametrize(
    ("steps", "threshold", "remasking", "args"),
    [
        (8, 0.95, "threshold", {"threshold": 0.95}),
        (8, 0.5, "threshold", {"threshold": 0.5}),
        (
            4,
            0.5,
            "token_edit",
            {"threshold": 0.5, "edit_threshold": None, "tokens_per_step": 2},
        ),
    ],
)
@pytest.mark.parametrize("cache", ["block_causal", "none"])
def test_the_engine_equals_the_published_loop_of_2_0(
    llm: LLM, twin: Twin, cache: str, steps: int, threshold: float, remasking: str, args: Any
) -> None:
    for ends in ((), ENDS):
        prompts = prompts_for(steps)
        outputs = generate(
            llm, prompts, remasking=remasking, remasking_args=args, cache=cache, stop_token_ids=ends
        )
        for prompt, output in zip(prompts, outputs, strict=True):
            published = published_llada2_0(
                twin.logits, prompt, mask=MASK_TOKEN_ID, ends=ends, max_tokens=room(prompt),
                block_length=BLOCK_LENGTH, num_steps=steps, threshold=threshold,
            )  # fmt: skip
            assert list(output.token_ids) == published.token_ids
            # With an end token in sight the published loop leaves the rest of the block undone.
            assert output.nfe == published.nfe if not ends else output.nfe >= published.nfe


@pytest.mark.parametrize(
    ("threshold", "edit_threshold", "max_post_steps", "num_to_transfer"),
    [(0.7, 0.5, 16, 1), (0.5, 0.0, 16, 1), (0.3, 0.2, 2, 3), (0.5, 0.0, 0, 1)],
)
@pytest.mark.parametrize("cache", ["block_causal", "none"])
def test_the_engine_equals_the_published_loop_of_2_1(
    llm: LLM,
    twin: Twin,
    cache: str,
    threshold: float,
    edit_threshold: float,
    max_post_steps: int,
    num_to_transfer: int,
) -> None:
    num_edited = 0
    for ends in ((), ENDS):
        prompts = prompts_for(100 + max_post_steps)
        outputs = generate(
            llm, prompts, remasking="token_edit", cache=cache, stop_token_ids=ends,
            remasking_args={
                "threshold": threshold, "edit_threshold": edit_threshold,
                "max_post_steps": max_post_steps, "tokens_per_step": num_to_transfer,
            },
        )  # fmt: skip
        for prompt, output in zip(prompts, outputs, strict=True):
            published = published_llada2_1(
                twin.logits, prompt, mask=MASK_TOKEN_ID, ends=ends, max_tokens=room(prompt),
                block_length=BLOCK_LENGTH, threshold=threshold, edit_threshold=edit_threshold,
                max_post_steps=max_post_steps, num_to_transfer=num_to_transfer,
            )  # fmt: skip
            assert (list(output.token_ids), output.nfe, output.num_edited) == (
                published.token_ids, published.nfe, published.num_edited,
            )  # fmt: skip
            assert output.cache_label == "exact"
            num_edited += output.num_edited
    assert num_edited > 20  # or nothing was shown
    assert_all_pages_free(llm.engine)


def test_requests_that_lose_their_pages_while_they_edit_go_on_as_if_nothing_was(
    llm: LLM, twin: Twin
) -> None:
    """Also where a page was sealed: only finished blocks may be shared."""
    tight = make_llm(twin.folder, page_size=8, num_pages=12, max_num_requests=4)
    args = {"threshold": 0.3, "edit_threshold": 0.0}
    prompts = prompts_for(7)
    wanted = {"remasking": "token_edit", "remasking_args": args, "cache": "block_causal"}
    squeezed, roomy = generate(tight, prompts, **wanted), generate(llm, prompts, **wanted)
    for one, other in zip(squeezed, roomy, strict=True):
        assert (one.token_ids, one.nfe, one.num_edited) == (
            other.token_ids, other.nfe, other.num_edited,
        )  # fmt: skip
    assert sum(output.num_preemptions for output in squeezed) > 0
    again = generate(tight, prompts, **wanted)
    assert [output.token_ids for output in again] == [output.token_ids for output in roomy]
    assert sum(output.num_cached_tokens for output in again) > 0
    assert_all_pages_free(tight.engine)


@pytest.mark.parametrize(
    "kind", [{"sub_block_length": 4, "logits_shift": True}, {"attention_kind": "causal_context"}]
)
def test_an_exact_cache_of_any_kind_of_attention_holds_and_edits_as_none_does(
    twin: Twin, kind: dict[str, Any]
) -> None:
    """Rows of a block that was held are final in the cache only if nothing was edited last."""
    llm, prompts = make_llm(twin.folder, kind), prompts_for(11)[1:]
    wanted = {"remasking": "token_edit", "remasking_args": {"max_post_steps": 3}}
    expected = generate(llm, prompts, cache="none", **wanted)
    for cache in ("block_causal", "dual"):
        for output, plain in zip(generate(llm, prompts, cache=cache, **wanted), expected,
                                 strict=True):  # fmt: skip
            assert output.cache_label == "exact"
            assert (output.token_ids, output.nfe, output.num_edited) == (
                plain.token_ids, plain.nfe, plain.num_edited,
            )  # fmt: skip
    assert sum(output.num_edited for output in expected) > 10
    assert_all_pages_free(llm.engine)


def test_a_step_with_nothing_to_do_is_taken(tmp_path: Path) -> None:
    assert make_llm(sharp_llada2_checkpoint(tmp_path)).engine.step() == []
