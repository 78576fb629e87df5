"""Gaps and templates: how they are written, what is refused, and how a length is chosen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from starr_engine import LLM, BlockOutput, RequestError, RequestOutput, SamplingParams
from starr_engine.decoding.base import (
    REMASKING_POLICIES,
    BlockView,
    Decision,
    State,
    StatelessPolicy,
)
from starr_engine.infilling import (
    TokenPrompt,
    choose,
    gap_lengths,
    is_infill,
    parse_infill,
    seam_checks,
)
from starr_engine.outputs import FinishReason
from starr_engine.request import Canvas, Request
from tests.helpers.engines import Reference, assert_all_pages_free, make_llm
from tests.helpers.fake_llm import FakeTokenizer
from tests.helpers.word_models import write_byte_model, write_word_model

MASK = 9
EOS = 1
A = FakeTokenizer().encode


def no_tokenizer() -> FakeTokenizer:
    raise RequestError("this model has no tokenizer")


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    llm = make_llm(write_word_model(tmp_path_factory.mktemp("words")))
    yield llm
    assert_all_pages_free(llm.engine)


def canvas(*ids: int, block_length: int = 2) -> Canvas:
    return Canvas(np.array(ids, np.int32), block_length=block_length, mask_token_id=MASK)


# The canvas


def test_the_region_goes_from_the_first_mask_to_the_last_in_blocks_of_which_the_last_is_shorter():
    made = canvas(1, 2, MASK, 3, MASK, MASK, MASK, 4, 5, block_length=3)
    assert (made.prompt_len, made.region_stop, made.length, made.num_masks) == (2, 7, 9, 4)
    assert made.num_blocks == 2
    assert (made.block_start, made.block_stop) == (2, 5)
    made.unmask(np.array([2, 4], np.int32), np.array([6, 7], np.int32))
    made.commit_block()
    assert (made.block_start, made.block_stop) == (5, 7)
    assert made.committed_ids.tolist() == [6, 3, 7]
    made.unmask(np.array([5, 6], np.int32), np.array([8, 8], np.int32))
    made.commit_block()
    assert made.block_index == made.num_blocks
    assert made.committed_ids.tolist() == [6, 3, 7, 8, 8]


def test_blocks_without_masks_are_committed_with_the_one_in_front():
    made = canvas(1, MASK, 3, 4, 5, 6, 7, MASK)
    made.unmask(np.array([1], np.int32), np.array([2], np.int32))
    made.commit_block()
    assert (made.block_index, made.block_start, made.block_stop) == (3, 7, 8)
    assert made.committed_ids.tolist() == [2, 3, 4, 5, 6, 7]


def test_a_fixed_token_cannot_be_revoked_or_unmasked():
    made = canvas(1, MASK, 3, MASK, block_length=3)
    fixed = np.array([2], np.int32)
    with pytest.raises(AssertionError):
        made.revoke(fixed)
    with pytest.raises(AssertionError):
        made.unmask(fixed, fixed)
    assert made.token_ids.tolist() == [1, MASK, 3, MASK]


def test_the_mean_log_confidence_is_that_of_the_tokens_that_stand():
    template = np.array([MASK, 4, MASK, MASK], np.int32)
    params = SamplingParams(max_tokens=99, block_length=4)
    request = Request("a", np.array([1], np.int32), params, MASK, template)
    assert request.canvas.length == 5
    assert request.mean_log_confidence is None
    positions = np.array([1, 3], np.int32)
    request.canvas.unmask(positions, np.array([5, 6], np.int32))
    request.note_confidence(positions, np.array([0.5, 0.25], np.float32))
    assert request.mean_log_confidence == pytest.approx(np.log([0.5, 0.25]).mean())
    request.canvas.revoke(positions[:1])
    assert request.mean_log_confidence == pytest.approx(np.log(0.25))
    request.note_confidence(positions[1:], np.array([0.0], np.float32))
    assert -104 < (request.mean_log_confidence or 0) < -103


# What users write


def parse(**prompt: Any) -> tuple[TokenPrompt, ...]:
    return parse_infill(prompt, FakeTokenizer)


def test_a_gap_stands_between_prefix_and_suffix():
    [got] = parse(prefix="ab", suffix="c", gap=2)
    assert (list(got.prompt_token_ids), got.template) == (A("ab"), [None, None, *A("c")])
    assert got.num_masks == 2
    [ids] = parse_infill(
        {"prefix_token_ids": [5], "suffix_token_ids": (6, 7), "gap": 1}, no_tokenizer
    )
    assert (list(ids.prompt_token_ids), ids.template) == ([5], [None, 6, 7])
    [front] = parse(suffix="c", gap=1)
    assert (list(front.prompt_token_ids), front.template) == ([], [None, *A("c")])


def test_a_range_of_gaps_is_a_candidate_for_each_length():
    got = parse(prefix="a", suffix="b", gap=[2, 4])
    assert [candidate.num_masks for candidate in got] == [2, 3, 4]
    assert {tuple(candidate.prompt_token_ids) for candidate in got} == {tuple(A("a"))}


@pytest.mark.parametrize(
    ("gap", "lengths"),
    [
        (1, [1]),
        ((7, 7), [7]),
        ((1, 16), list(range(1, 17))),
        ((1, 46), list(range(1, 47, 3))),
    ],
)
def test_at_most_sixteen_lengths_are_tried(gap: Any, lengths: list[int]):
    assert list(gap_lengths(gap)) == lengths


def test_wide_ranges_are_sampled_evenly_with_both_ends():
    for high in range(2, 200):
        lengths = gap_lengths((1, high))
        assert (lengths[0], lengths[-1], len(lengths)) == (1, high, min(high, 16))
        steps = np.diff(lengths)
        assert steps.min() >= 1
        assert steps.max() - steps.min() <= 1


def test_a_template_is_texts_ids_and_numbers():
    [got] = parse(prompt="Q", template=["a", 2, [5, 6], 1, "bc"])
    assert list(got.prompt_token_ids) == A("Q")
    assert got.template == [*A("a"), None, None, 5, 6, None, *A("bc")]
    [alone] = parse_infill({"prompt_token_ids": [4], "template": [1, [2]]}, no_tokenizer)
    assert (list(alone.prompt_token_ids), alone.template) == ([4], [None, 2])


@pytest.mark.parametrize(
    ("prompt", "problem"),
    [
        ({"prefix": "a", "suffix": "b"}, "needs a gap"),
        ({"prefix": "a", "gap": 0}, r"gap must be a number of tokens of at least 1, .* got 0"),
        ({"prefix": "a", "gap": True}, "gap must be a number"),
        ({"prefix": "a", "gap": 2.0}, "gap must be a number"),
        ({"prefix": "a", "gap": (3, 2)}, "low <= high, got"),
        ({"prefix": "a", "gap": (1, 2, 3)}, "gap must be"),
        ({"prefix": "a", "gap": "3"}, "gap must be"),
        ({"prefix": 5, "gap": 2}, "prefix must be a text, got 5"),
        ({"suffix_token_ids": "ab", "gap": 2}, "suffix_token_ids must be a list of token ids"),
        ({"prefix_token_ids": [True], "gap": 2}, "prefix_token_ids must be a list of token ids"),
        ({"prefix": "a", "prefix_token_ids": [1], "gap": 2}, "prefix or prefix_token_ids, not"),
        ({"prompt": "a", "suffix": "b", "gap": 2}, "a gap cannot have 'prompt' too"),
        ({"prefix": "a", "gap": 2, "template": [1]}, "cannot have 'prefix' and 'gap' too"),
        ({"prompt": "a", "template": []}, "a template is a list"),
        ({"prompt": "a", "template": "ab"}, "a template is a list"),
        ({"prompt": "a", "template": ["b"]}, "nothing to generate"),
        ({"prompt": "a", "template": ["b", 0]}, r"template\[1\] must be .* got 0"),
        ({"prompt": "a", "template": ["b", None]}, r"template\[1\] must be .* got None"),
        ({"prompt": "a", "template": [1, ["x"]]}, r"template\[1\] must be a list of token ids"),
        ({"prompt": "a", "template": [1, "x\0"]}, "mask token"),
    ],
)
def test_a_bad_form_says_what_is_wrong(prompt: dict[str, Any], problem: str):
    assert is_infill(prompt)
    with pytest.raises(RequestError, match=problem):
        parse_infill(prompt, FakeTokenizer)


@pytest.mark.parametrize(
    ("prompt", "params", "problem"),
    [
        ({"suffix_token_ids": [], "gap": 2}, {}, "the prompt is empty"),
        ({"prefix_token_ids": [5], "suffix_token_ids": [3], "gap": 2}, {}, "holds the mask token"),
        ({"prefix_token_ids": [5], "suffix_token_ids": [999], "gap": 2}, {}, "outside the vocab"),
        ({"prefix": "w1", "gap": 160}, {}, "template of 160 make 161, the model allows 160"),
        ({"prefix": "w1", "gap": (1, 200)}, {}, "the model allows 160"),
        ({"prefix": "w1", "gap": 2}, {"stop": "a"}, "stop cannot be used with a gap"),
        ({"prefix": "w1", "gap": 2}, {"stop_token_ids": (7,)}, "stop_token_ids cannot be used"),
    ],
)
def test_a_request_that_cannot_run_is_refused_and_leaves_nothing_behind(
    words: LLM, prompt: dict[str, Any], params: dict[str, Any], problem: str
):
    with pytest.raises(RequestError, match=f"prompt 1: .*{problem}"):
        words.generate(
            [{"prefix": "w1", "gap": (1, 3)}, prompt], [SamplingParams(), SamplingParams(**params)]
        )
    assert not words.engine.has_unfinished


def test_a_range_cannot_be_streamed(words: LLM):
    with pytest.raises(RequestError, match=r"prompt 0: .*range cannot be streamed"):
        words.stream({"prefix": "w1", "gap": (1, 2)})
    assert not words.engine.has_unfinished


# What comes back


def test_slots_are_the_texts_of_the_runs_of_masks(words: LLM):
    [output] = words.generate({"prompt": "w1", "template": ["w2", 2, "w3 w4", 1, "w5"]})
    first, second = (text.split() for text in output.slots)
    assert (len(first), len(second)) == (2, 1)
    assert output.text.split() == [*first, "w3", "w4", *second]
    assert len(output.token_ids) == 5
    assert (output.num_unmasked, output.finish_reason) == (3, FinishReason.LENGTH)
    [ordinary] = words.generate("w1", SamplingParams(max_tokens=2))
    assert (ordinary.slots, ordinary.gap_lengths_tried, ordinary.search_nfe) == ((), (), 0)
    assert ordinary.total_nfe == ordinary.nfe
    assert ordinary.mean_log_confidence is not None


def test_the_text_of_a_gap_continues_its_prefix(words: LLM):
    prompt = {"prefix": "w1 w2", "suffix": "w3", "gap": 3}
    [output] = words.generate(prompt)
    decode = words.tokenizer.decode
    assert decode(output.prompt_token_ids) + output.text == decode(
        [*output.prompt_token_ids, *output.token_ids]
    )
    assert output.slots == (output.text,)
    with words.stream(prompt) as stream:
        blocks = [block for block in stream if isinstance(block, BlockOutput)]
    assert "".join(block.text for block in blocks) == output.text


def test_torn_characters_are_handed_out_when_they_are_whole(tmp_path: Path):
    llm = make_llm(write_byte_model(tmp_path))
    params = SamplingParams(block_length=2, temperature=1.0)
    with llm.stream({"prefix": "\u00e4b", "suffix": "\u00fc", "gap": 11}, params) as stream:
        outputs = list(stream)
    result = outputs.pop()
    assert isinstance(result, RequestOutput)
    assert "".join(block.text for block in outputs) == result.text
    assert len(result.token_ids) == 11


def test_eos_is_never_generated_where_text_follows(tmp_path: Path):
    # An output layer that knows EOS alone.
    llm = make_llm(write_word_model(tmp_path))
    head = llm.engine.executor._model.compute_logits

    def wants_eos(hidden: torch.Tensor) -> torch.Tensor:
        logits = head(hidden)
        logits[:, EOS] = 50.0
        return logits

    llm.engine.executor._model.compute_logits = wants_eos  # type: ignore[method-assign]
    params = SamplingParams(max_tokens=4)
    gap, ordinary = llm.generate([{"prefix": "w1", "suffix": "w2", "gap": 4}, "w1"], params)
    assert ordinary.finish_reason is FinishReason.STOP
    assert EOS not in gap.token_ids
    assert len(gap.token_ids) == 4
    assert (gap.mean_log_confidence or 0.0) > -20  # EOS weighs in no confidence


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokesAll(StatelessPolicy):
    """Unmasks all masks, and asks for every token of the block to be masked again."""

    scores_unmasked: ClassVar[bool] = True
    needs_logits: ClassVar[bool] = True

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        return Decision(unmask=view.masked, revoke=~view.masked), state


def test_a_policy_that_revokes_everything_cannot_revoke_what_is_fixed(
    words: LLM, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(REMASKING_POLICIES._targets, "revokes_all", RevokesAll)
    for cache in ("none", "dual"):
        [output] = words.generate(
            {"prompt": "w1", "template": [2, "w2 w3", 2, "w4"]},
            SamplingParams(remasking="revokes_all", cache=cache),
        )
        assert output.error is None
        assert output.text.split()[2:4] == ["w2", "w3"]
        assert (output.nfe, output.num_unmasked) == (1, 4)


# The length of a gap


def output(score: float | None, length: int, **changes: Any) -> RequestOutput:
    fields: dict[str, Any] = {
        "request_id": str(length), "prompt_token_ids": (1,), "token_ids": (5,) * length,
        "text": "", "finish_reason": FinishReason.LENGTH, "nfe": length, "num_unmasked": length,
        "computed_rows": 1, "cache_label": "exact", "latency_s": 0.0, "mean_log_confidence": score,
    }  # fmt: skip
    return RequestOutput(**(fields | changes))


def test_the_best_length_has_the_highest_mean_over_gap_and_seam():
    candidates = parse(prefix="a", suffix="bcdefg", gap=(1, 3))
    outputs = [output(-0.5, 1), output(-0.1, 2), output(-0.1, 3)]
    checks = seam_checks(candidates, outputs)
    assert [list(check.prompt_token_ids) for check in checks] == [
        [*A("a"), *[5] * length] for length in (1, 2, 3)
    ]
    for check in checks:
        assert (check.given, check.template) == (tuple(A("bcde")), [*[None] * 4, *A("fg")])
    # (-0.5 - 0.4)/5 = -0.18, (-0.2 - 8)/6, (-0.3 - 4)/7
    seams = [output(-0.1, 4), output(-2.0, 4), output(-1.0, 4)]
    best = choose(candidates, outputs, seams)
    assert (len(best.token_ids), best.gap_lengths_tried) == (1, (1, 2, 3))
    assert (best.nfe, best.search_nfe, best.total_nfe) == (1, 5 + 12, 18)
    without = choose(candidates, outputs, [])
    assert (len(without.token_ids), without.request_id) == (2, "1")  # the shorter of equals


def test_a_length_that_failed_is_taken_only_if_all_failed():
    candidates = parse(prefix="a", suffix="b", gap=(1, 2))
    failed = {"finish_reason": FinishReason.ERROR, "error": "why"}
    outputs = [output(0.0, 1, **failed), output(-3.0, 2)]
    [check] = seam_checks(candidates, outputs)
    assert len(check.prompt_token_ids) == 3
    assert choose(candidates, outputs, [output(-1.0, 1)]).error is None
    both = [output(None, 1, **failed), output(None, 2, **failed)]
    assert seam_checks(candidates, both) == ()
    assert choose(candidates, both, []).error == "why"


def test_one_length_is_not_judged():
    candidates = parse(prefix="a", suffix="b", gap=2)
    only = output(-1.0, 2)
    assert seam_checks(candidates, [only]) == ()
    assert choose(candidates, [only], []) is only


def test_a_range_gives_the_output_of_its_best_length(words: LLM):
    prompt = {"prefix": "w1 w2", "suffix": "w3 w4 w5"}
    params = SamplingParams(block_length=3, cache="none")
    [got, other] = words.generate([{**prompt, "gap": (1, 5)}, "w7"], params)
    fixed = words.generate([{**prompt, "gap": length} for length in range(1, 6)], params)
    same = fixed[len(got.token_ids) - 1]
    assert (got.token_ids, got.nfe, got.text) == (same.token_ids, same.nfe, same.text)
    assert got.gap_lengths_tried == (1, 2, 3, 4, 5)
    assert got.total_nfe == sum(each.nfe for each in fixed) + 5
    assert (got.request_id, other.request_id) == ("0", "1")


def test_given_tokens_have_the_confidence_that_the_model_gives_them(words: LLM):
    prompt, seam = [5, 6, 7], (8, EOS, 10)
    engine = words.engine
    engine.add_request(prompt, SamplingParams(), template=[None] * 3, given=seam)
    while engine.has_unfinished:
        [*_, got] = engine.step()
    assert isinstance(got, RequestOutput)
    assert (got.token_ids, got.nfe) == (seam, 1)
    # The same by softmax over the logits of the canvas with three masks.
    logits = Reference(Path(engine.config.model)).model.logits((*prompt, 3, 3, 3))[3:].copy()
    logits[:, 3] = -np.inf
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert got.mean_log_confidence == pytest.approx(logs[range(3), seam].mean(), abs=1e-4)


@pytest.mark.parametrize("given", [(5,), (5, 6, 7), (3, 5), (5, 999)])
def test_given_tokens_that_do_not_fit_are_refused(words: LLM, given: tuple[int, ...]):
    with pytest.raises(RequestError, match="given"):
        words.engine.add_request([4], SamplingParams(), template=[None, None, 8], given=given)
    with pytest.raises(RequestError, match="at most block_length=1 positions"):
        words.engine.add_request(
            [4], SamplingParams(block_length=1), template=[None, None], given=[5, 6]
        )
    with pytest.raises(RequestError, match="2 tokens for 2 masks over 4 positions"):
        words.engine.add_request(
            [4], SamplingParams(block_length=3), template=[None, 7, 8, None], given=[5, 6]
        )
    assert not words.engine.has_unfinished
