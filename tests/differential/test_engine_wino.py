"""WINO in the engine: against the dense loop, with every cache, and beside other requests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from torch import Tensor

from starr_engine import LLM, RequestError, SamplingParams
from starr_engine.decoding.base import REMASKING_POLICIES
from starr_engine.engine.step_batch import StepBatch
from tests.helpers.checkpoints import MASK_TOKEN_ID
from tests.helpers.engines import (
    Reference,
    as_prompts,
    assert_same,
    make_llm,
    random_prompts,
    sharp_checkpoint,
)
from tests.helpers.reference_wino import shadow_matrix

EOS = 1
BOLD: dict[str, Any] = {"tau1": 0.3, "tau2": 0.6, "cap_min": 2}
TEMPLATES: list[list[int | list[int]]] = [
    [3, [7, 8], 5, [9], 1, [10, 11]],  # a fixed suffix
    [2, [20] * 9, 12, [21, 22], 3],  # a block of fixed tokens alone, and a short last block
    [[30, 31], 11],
]
OTHERS = (("low_confidence", "none"), ("threshold", "dual"), ("starr", "dual"), ("starr", "none"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sharp_checkpoint(tmp_path_factory.mktemp("sharp"))


@pytest.fixture(scope="module", params=["sdpa", "reference"])
def llm(request: pytest.FixtureRequest, folder: Path) -> LLM:
    return make_llm(folder, attention_backend=request.param)


def spelled(template: list[int | list[int]]) -> list[int | None]:
    """A template as the reference takes it."""
    canvas: list[int | None] = []
    for part in template:
        canvas += [None] * part if isinstance(part, int) else part
    return canvas


def wino(cache: str = "none", **changes: Any) -> SamplingParams:
    fields = {"max_tokens": 24, "block_length": 8, "ignore_eos": True, "remasking_args": BOLD}
    return SamplingParams(**(fields | {"remasking": "wino", "cache": cache} | changes))


def test_a_block_of_more_than_thirty_equals_the_dense_loop(llm: LLM, folder: Path) -> None:
    params = wino(max_tokens=48, block_length=48, remasking_args={"tau1": 0.2, "tau2": 0.9})
    reference = Reference(folder)
    for prompt in random_prompts(3, seed=6):
        [output] = llm.generate(as_prompts([prompt]), params)
        assert_same(output, reference.generate(prompt, params))


def test_wino_equals_the_dense_loop_among_other_policies_and_caches(llm: LLM, folder: Path) -> None:
    reference = Reference(folder)
    params = [
        wino(seed=n, temperature=(0.0, 0.7)[n % 2], block_length=(8, 4)[n // 2 % 2], **changes)
        for n, changes in enumerate([{}, {}, {"remasking_args": {}}, {"remasking_args": {}}])
    ]
    crowd = [wino(remasking=name, remasking_args={}, cache=cache) for name, cache in OTHERS]
    mixed = [wanted for pair in zip(crowd, params, strict=True) for wanted in pair]
    prompts = random_prompts(8, seed=10)
    outputs = llm.generate(as_prompts(prompts), mixed)
    for prompt, wanted, output in list(zip(prompts, mixed, outputs, strict=True))[1::2]:
        assert_same(output, reference.generate(prompt, wanted))


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_templates_and_short_last_blocks_equal_the_dense_loop(
    llm: LLM, folder: Path, temperature: float
) -> None:
    reference = Reference(folder)
    params = wino(max_tokens=13, temperature=temperature, seed=3)
    prompts = random_prompts(len(TEMPLATES) + 1, seed=14)
    asked = [
        {"prompt_token_ids": prompt, "template": template}
        for prompt, template in zip(prompts, TEMPLATES, strict=False)
    ]
    outputs = llm.generate([*asked, *as_prompts(prompts[-1:])], params)
    for prompt, template, output in zip(prompts, [*TEMPLATES, None], outputs, strict=True):
        canvas = None if template is None else spelled(template)
        assert_same(output, reference.generate(prompt, params, canvas))
        assert canvas is None or output.num_unmasked == canvas.count(None)


@pytest.mark.parametrize("cache", ["none", "dual"])
def test_fixed_tokens_have_no_shadow_scores_and_stay(
    llm: LLM, monkeypatch: pytest.MonkeyPatch, cache: str
) -> None:
    forward = llm.engine.executor.forward
    num_checked = 0

    def look(batch: StepBatch) -> Tensor:
        nonlocal num_checked
        canvas = batch.entries[0].running.request.canvas
        assert not canvas.is_fixed[batch.shadow_positions[0]].any()
        length = canvas.block_stop - canvas.block_start
        num_checked += len(batch.shadow_positions[0])
        assert batch.attention.shadow_lens == (length if len(batch.shadow_positions[0]) else 0,)
        return forward(batch)

    monkeypatch.setattr(llm.engine.executor, "forward", look)
    # tau2 = 1 doubts every token that is checked.
    params = wino(cache, remasking_args={"tau1": 0.1, "tau2": 1.0, "cap_min": 2, "cap_max": 3})
    for template in TEMPLATES:
        [output] = llm.generate([{"prompt_token_ids": [5, 6], "template": template}], params)
        assert output.error is None
        canvas = [*output.prompt_token_ids, *output.token_ids]
        for token, given in zip(canvas, [5, 6, *spelled(template)], strict=False):
            assert given is None or token == given
    assert num_checked > 10


def test_a_token_that_is_forbidden_weighs_in_no_shadow_score(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [{"prompt_token_ids": [5, 6], "template": template} for template in TEMPLATES]
    expected = llm.generate(asked, wino())
    forward = llm.engine.executor.forward

    def wants_eos(batch: StepBatch) -> Tensor:
        logits = forward(batch).clone()
        logits[:, EOS] = 50.0
        return logits

    monkeypatch.setattr(llm.engine.executor, "forward", wants_eos)
    for got, before in zip(llm.generate(asked, wino()), expected, strict=True):
        assert (got.token_ids, got.nfe) == (before.token_ids, before.nfe)


def test_other_requests_decode_the_same_with_and_without_a_wino_neighbour(llm: LLM) -> None:
    crowd = [wino(remasking=name, remasking_args={}, cache=cache) for name, cache in OTHERS]
    prompts = as_prompts(random_prompts(8, seed=11))
    without = llm.generate(prompts[:4], crowd)
    neighbours = [wino("none"), wino("dual")] * 2
    beside = llm.generate(
        [prompt for pair in zip(prompts[:4], prompts[4:], strict=True) for prompt in pair],
        [params for pair in zip(crowd, neighbours, strict=True) for params in pair],
    )[::2]
    for a, b in zip(beside, without, strict=True):
        assert (a.token_ids, a.nfe, a.computed_rows) == (b.token_ids, b.nfe, b.computed_rows)


def test_a_dual_cache_refreshed_at_every_step_decodes_as_no_cache(llm: LLM) -> None:
    prompts = as_prompts(random_prompts(6, seed=12))
    exact = llm.generate(prompts, wino("none"))
    always = llm.generate(prompts, wino("dual", cache_args={"refresh_every": 1}))
    for a, b in zip(always, exact, strict=True):
        assert (a.token_ids, a.nfe, a.computed_rows) == (b.token_ids, b.nfe, b.computed_rows)


@pytest.mark.parametrize("cache", ["none", "dual"])
def test_shadow_rows_are_counted_as_rows_and_not_as_forwards(llm: LLM, cache: str) -> None:
    [output] = llm.generate(as_prompts([[5] * 10]), wino(cache))
    # The first step of each of three blocks has no token to check; all others have one at least.
    later = output.nfe - 3
    rows = 8 if cache == "dual" else 34
    assert output.computed_rows == 3 * 34 + later * (rows + 8)
    assert later > 0


def test_a_canvas_whose_shadow_rows_exceed_the_row_budget_is_refused(folder: Path) -> None:
    tight = make_llm(folder, max_num_batched_tokens=36)
    with pytest.raises(RequestError, match="of 29 rows and 8 shadow rows does not fit"):
        tight.generate(as_prompts([[5] * 5]), wino())
    fitting = tight.generate(as_prompts([[5] * 4] * 2), wino())
    roomy = make_llm(folder).generate(as_prompts([[5] * 4] * 2), wino())
    assert [out.token_ids for out in fitting] == [out.token_ids for out in roomy]


def test_a_policy_that_does_not_say_whether_it_needs_shadow_rows_is_refused(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dataclass(frozen=True)
    class Silent:
        scores_unmasked: ClassVar[bool] = False
        needs_logits: ClassVar[bool] = False

    monkeypatch.setitem(REMASKING_POLICIES._targets, "silent", Silent)
    with pytest.raises((AttributeError, RequestError), match="needs_shadow"):
        llm.engine.add_request([5], wino(remasking="silent", remasking_args={}))
    assert not llm.engine.has_unfinished


@pytest.mark.parametrize("cache", ["none", "dual"])
def test_logits_of_shadow_rows_are_those_of_the_dense_forward(
    llm: LLM, folder: Path, monkeypatch: pytest.MonkeyPatch, cache: str
) -> None:
    steps: list[tuple[StepBatch, list[int], int, Tensor]] = []
    forward = llm.engine.executor.forward

    def keep(batch: StepBatch) -> Tensor:
        logits = forward(batch)
        canvas = batch.entries[0].running.request.canvas
        steps.append((batch, canvas.token_ids.tolist(), canvas.block_start, logits))
        return logits

    monkeypatch.setattr(llm.engine.executor, "forward", keep)
    # Refreshed at every step, because reused keys would differ from those of a dense forward.
    args = {"refresh_every": 1} if cache == "dual" else {}
    llm.generate(as_prompts([[5, 6, 7]]), wino(cache, cache_args=args))
    model = Reference(folder).model
    num_checked = 0
    for batch, tokens, start, logits in steps:
        scored, shadows = batch.score_positions[0], batch.shadow_positions[0]
        num_checked += len(shadows)
        dense = model.logits(
            tokens + [MASK_TOKEN_ID] * 8,
            [*range(len(tokens)), *range(start, start + 8)],
            shadow_matrix(len(tokens), start, 8),
        )
        wanted = dense[[*scored, *(len(tokens) + shadows - start)]]
        np.testing.assert_allclose(logits.numpy(), wanted, rtol=0, atol=1e-3)
        assert batch.attention.shadow_lens == (8 if len(shadows) else 0,)
    assert num_checked > 20
