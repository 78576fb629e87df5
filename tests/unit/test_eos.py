"""EOS: where outputs end, what they cost, and the two ways to hold it off."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from starr_engine import LLM, RequestOutput, SamplingParams
from starr_engine.decoding.base import REMASKING_POLICIES, BlockView
from starr_engine.decoding.eos_last import flatten, late_rows, postpone
from starr_engine.decoding.policies.threshold import ThresholdPolicy
from starr_engine.decoding.scores import score_rows
from tests.helpers.engines import (
    Reference,
    as_prompts,
    assert_same,
    make_llm,
    random_prompts,
    sharp_checkpoint,
)

EOS = 1
PROMPTS = random_prompts(6, seed=4)
POLICIES = ("low_confidence", "threshold", "starr")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sharp_checkpoint(tmp_path_factory.mktemp("sharp"))


@pytest.fixture(scope="module")
def llm(folder: Path) -> LLM:
    return make_llm(folder)


def small(**changes: Any) -> SamplingParams:
    # A bias makes EOS the likeliest of all in many places, as in the tail of a real output.
    given = {"max_tokens": 24, "block_length": 8, "cache": "none", "logit_bias": {EOS: 5.0}}
    return SamplingParams(**(given | changes))


def generate(llm: LLM, **changes: Any) -> list[RequestOutput]:
    return llm.generate(as_prompts(PROMPTS), small(**changes))


@pytest.mark.parametrize("remasking", POLICIES)
def test_no_token_stands_behind_eos_and_only_blocks_up_to_it_cost_forwards(
    llm: LLM, remasking: str
) -> None:
    stopped = generate(llm, remasking=remasking)
    full = generate(llm, remasking=remasking, ignore_eos=True)
    assert any(out.finish_reason == "stop" for out in stopped)
    for early, late in zip(stopped, full, strict=True):
        cut = late.token_ids.index(EOS) if EOS in late.token_ids else 24
        assert early.token_ids == late.token_ids[:cut]
        blocks = min(cut // 8 + 1, 3)
        assert early.num_unmasked == 8 * blocks
        assert (late.num_unmasked, len(late.token_ids)) == (24, 24)
        assert early.nfe < late.nfe if blocks < 3 else early.nfe == late.nfe
        if remasking == "low_confidence":
            assert (early.nfe, late.nfe) == (8 * blocks, 24)


def test_without_options_the_engine_equals_the_reference(llm: LLM, folder: Path) -> None:
    reference = Reference(folder)
    for prompt in PROMPTS:
        params = small(logit_bias={}, remasking="threshold")
        assert_same(
            llm.generate(as_prompts([prompt]), params)[0], reference.generate(prompt, params)
        )


@pytest.mark.parametrize("remasking", POLICIES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_suppressed_eos_never_comes_and_ends_nothing(
    llm: LLM, remasking: str, temperature: float
) -> None:
    assert any(EOS in out.token_ids for out in generate(llm, remasking=remasking, ignore_eos=True))
    changes = {"remasking": remasking, "temperature": temperature, "suppress_eos": True}
    for out in generate(llm, **changes, ignore_eos=True):
        assert EOS not in out.token_ids
    for out in generate(llm, **changes):
        assert (out.finish_reason, len(out.token_ids)) == ("length", 24)


@pytest.mark.parametrize("remasking", POLICIES)
def test_stop_tokens_still_end_where_eos_is_suppressed(llm: LLM, remasking: str) -> None:
    stops = tuple(range(4, 101))
    for out in generate(llm, remasking=remasking, suppress_eos=True, stop_token_ids=stops):
        assert (out.finish_reason, out.num_unmasked) == ("stop", 8)


@pytest.mark.parametrize("remasking", POLICIES)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_eos_last_unmasks_eos_only_when_every_mask_proposes_it(
    llm: LLM, remasking: str, temperature: float
) -> None:
    outputs = generate(
        llm, remasking=remasking, temperature=temperature, eos_last=True, ignore_eos=True,
        logprobs=0, logit_bias={EOS: 2.0},
    )  # fmt: skip
    assert any(EOS in out.token_ids for out in outputs)
    for out in outputs:
        assert out.logprobs is not None
        for block in range(0, 24, 8):
            entries = out.logprobs[block : block + 8]
            ends = [entry.step for entry in entries if entry.token_id == EOS]
            # One at a time, by the progress guarantee.
            assert len(set(ends)) == len(ends)
            together = {entry.step for entry in entries if entry.token_id != EOS} & set(ends)
            assert not together
    plain = generate(llm, remasking=remasking, temperature=temperature, ignore_eos=True,
                     logit_bias={EOS: 2.0})  # fmt: skip
    assert [out.token_ids for out in outputs] != [out.token_ids for out in plain]


def test_eos_last_holds_stop_tokens_back_too(llm: LLM) -> None:
    stops = tuple(range(4, 50))
    outputs = generate(
        llm, eos_last=True, stop_token_ids=stops, ignore_eos=True, remasking="threshold",
        remasking_args={"threshold": 1e-6}, logit_bias={},
    )  # fmt: skip
    # At such a threshold only what waits keeps a block from being done in one step.
    assert any(out.nfe > out.num_unmasked // 8 for out in outputs)


@pytest.mark.parametrize("remasking", POLICIES)
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_min_tokens_holds_off_eos_and_stop_tokens_but_not_longer(
    llm: LLM, remasking: str, temperature: float
) -> None:
    changes = {"remasking": remasking, "temperature": temperature, "stop_token_ids": (5, 6, 7)}
    free = generate(llm, **changes)
    assert any(len(out.token_ids) < 10 for out in free)
    held = generate(llm, **changes, min_tokens=10)
    assert all(len(out.token_ids) >= 10 for out in held)
    assert any(out.finish_reason == "stop" for out in held)
    longest = generate(llm, **changes, min_tokens=24)
    assert all((out.finish_reason, len(out.token_ids)) == ("length", 24) for out in longest)


def test_the_view_shows_the_least_there_is_for_a_late_candidate() -> None:
    logits = torch.tensor([[0.0, 9.0, 1.0, 0.0], [5.0, 1.0, 0.0, 0.0], [0.0, 9.0, 0.0, 0.0]])
    scores = score_rows(logits, torch.tensor([3, 3, 2]), 3, [])
    proposed = late_rows(scores.proposals, [(1,)], [3])
    assert proposed is not None
    assert proposed.tolist() == [True, False, True]
    late = proposed & torch.tensor([True, True, False])  # what stands there does not wait
    shown = postpone(scores, late, proposed, 4)
    assert [shown.confidence[0], shown.top1[0], shown.top2[0]] == [0, 0, 0]
    assert shown.entropy[0].item() == pytest.approx(math.log(4))
    assert (shown.proposal_confidence == 0).tolist() == [True, False, True]
    for name in ("confidence", "top1", "top2", "entropy"):
        assert torch.equal(getattr(shown, name)[1:], getattr(scores, name)[1:])
    assert torch.equal(shown.candidates, scores.candidates)
    assert late_rows(scores.proposals, [()], [3]) is None


def test_requests_that_do_not_ask_are_not_held_back() -> None:
    candidates = torch.tensor([1, 1, 1, 1])
    late = late_rows(candidates, [(), (1,)], [3, 1])
    assert late is not None
    assert late.tolist() == [False, False, False, True]


def test_a_policy_that_reads_logits_sees_a_flat_row_with_the_same_arg_max() -> None:
    inf = torch.inf
    logits = torch.tensor([[0.0, 9.0, -inf, 1.0], [5.0, 1.0, -inf, 0.0]])
    shown = flatten(logits, torch.tensor([1, 0]), torch.tensor([True, False]))
    assert torch.equal(shown[1], logits[1])
    assert shown[0].argmax() == 1
    assert torch.allclose(shown[0].softmax(-1), torch.tensor([1, 1, 0, 1]) / 3, atol=1e-3)


def test_the_flat_row_reaches_the_policy(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def watch(self: ThresholdPolicy, view: BlockView, state: Any) -> Any:
        assert view.logits is not None
        probability = view.logits.softmax(-1).amax(-1)
        seen.append((probability[view.masked], view.confidence[view.masked]))
        return decide(self, view, state)

    decide = ThresholdPolicy.decide
    monkeypatch.setattr(ThresholdPolicy, "decide", watch)
    monkeypatch.setattr(ThresholdPolicy, "needs_logits", True)
    assert REMASKING_POLICIES.get("threshold") is ThresholdPolicy
    outputs = generate(llm, remasking="threshold", eos_last=True, ignore_eos=True)
    probability = torch.cat([pair[0] for pair in seen])
    confidence = torch.cat([pair[1] for pair in seen])
    is_late = confidence == 0
    assert 0 < is_late.sum() < len(is_late)
    assert (probability[is_late] < 0.0101).all()
    assert torch.allclose(probability[~is_late], confidence[~is_late], atol=1e-5)
    monkeypatch.undo()
    plain = generate(llm, remasking="threshold", eos_last=True, ignore_eos=True)
    assert [out.token_ids for out in outputs] == [out.token_ids for out in plain]
