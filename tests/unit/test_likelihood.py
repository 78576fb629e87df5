"""The likelihood of answers against its definition, summed over all masks by plain forwards."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from starr_engine import LLM, RequestOutput, SamplingParams
from starr_engine.errors import ConfigError, RequestError
from starr_engine.study.likelihood.masks import all_masks, block_masks, drawn_masks
from starr_engine.study.likelihood.probes import answer_blocks
from starr_engine.study.likelihood.scorer import AnswerScore, LikelihoodScorer, Question
from tests.helpers.engines import assert_all_pages_free, make_llm
from tests.helpers.flat_logits import batch_logits
from tests.helpers.made import Visible, block_causal, causal_context, make_sharp

CONTEXT, ANSWER = (9, 30, 12, 77, 41, 8), (15, 60, 22, 90, 33, 71)
Attention = Callable[[int], Callable[[int], Visible]]
"""Start of the block that is masked -> what sees what."""


@pytest.fixture(scope="module", params=["tiny-llada", "tiny-sdar"])
def llm(request: pytest.FixtureRequest) -> Iterator[LLM]:
    llm = LLM(request.param, num_threads=1, device="cpu")
    yield llm
    assert_all_pages_free(llm.engine)


def everything(length: int) -> Visible:
    return np.ones((length, length), dtype=np.bool_)


def log_probs(llm: LLM, front: Sequence[int], block: Sequence[int], masked: Sequence[int],
              attention: Attention) -> list[float]:  # fmt: skip
    """Of the masked tokens, by one forward of a whole canvas through attention written out."""
    spec = llm.engine.spec
    ids = [*front, *(spec.mask_token_id if at in masked else t for at, t in enumerate(block))]
    [logits] = batch_logits(llm.engine.executor.model, [ids], attention(len(front)))
    rows = logits.double().index_fill(1, torch.tensor([spec.mask_token_id]), -torch.inf)
    logs = rows.log_softmax(-1)
    found = []
    for at in masked:
        is_shifted = spec.logits_shift or (spec.seeds_block and at == 0)
        found.append(float(logs[len(front) + at - is_shifted, block[at]]))
    return found


def bound(llm: LLM, front: Sequence[int], block: Sequence[int], attention: Attention) -> float:
    """The definition: size l uniform in 1..L, then a mask uniform among those of its size."""
    total, length = 0.0, len(block)
    for size in range(1, length + 1):
        masks = list(itertools.combinations(range(length), size))
        inner = [sum(log_probs(llm, front, block, masked, attention)) for masked in masks]
        total += length / size * sum(inner) / len(masks) / length
    return total


def score(llm: LLM, *answers: Sequence[int], context: Sequence[int] = CONTEXT,
          **options: int) -> list[AnswerScore]:  # fmt: skip
    questions = [Question(context=tuple(context), answer=tuple(answer)) for answer in answers]
    return LikelihoodScorer(llm.engine, **options).score(questions)


def attention_of(llm: LLM) -> Attention:
    spec = llm.engine.spec
    if spec.attention_kind == "causal_context":
        return causal_context
    mask = everything if spec.block_length is None else block_causal(spec.block_length)
    return lambda start: mask


def test_an_answer_within_one_block_is_summed_exactly_in_both_kinds_of_model(llm):
    # The block-causal model's block is 16 long: context and answer lie in its first.
    [found] = score(llm, ANSWER[:5])
    assert found.log_likelihood == pytest.approx(
        bound(llm, CONTEXT, ANSWER[:5], attention_of(llm)), abs=1e-4
    )
    assert found.forwards == 2**5 - 1  # the greedy check finds all it needs among them


def test_blocks_are_conditioned_on_clean_ones_and_added():
    llm = LLM("tiny-sdar", num_threads=1, device="cpu")
    answer = [4 + 7 * at % 90 for at in range(23)]
    context = [*CONTEXT, *CONTEXT, 5]  # 13: the first block has 3 positions left
    blocks = answer_blocks(tuple(context), tuple(answer), llm.engine.spec)
    assert [len(block.tokens) for block in blocks] == [3, 16, 4]
    assert blocks[2].front == (*context, *answer[:19])
    found = score(llm, answer[:3], answer[:19], answer, context=context, samples=16)
    attention = attention_of(llm)
    by_definition = [bound(llm, block.front, block.tokens, attention) for block in blocks[::2]]
    first, middle, last = (each.log_likelihood for each in found)
    assert first == pytest.approx(by_definition[0], abs=1e-4)
    assert last - middle == pytest.approx(by_definition[1], abs=1e-4)


@pytest.mark.parametrize("architecture", ["dream", "fast-dllm-v2", "nemotron-diffusion", "llada2"])
def test_every_kind_of_attention_and_shift_is_scored_by_its_own_rows(tmp_path, architecture):
    make_sharp(tmp_path / "model", architecture)
    llm = make_llm(tmp_path / "model", num_threads=1)
    context = CONTEXT * 5 + (6,)  # 31: a block of 32 ends behind the answer's first token
    blocks = answer_blocks(context, ANSWER[:4], llm.engine.spec)
    assert len(blocks) == (2 if llm.engine.spec.attention_kind == "block_causal" else 1)
    [found] = score(llm, ANSWER[:4], context=context)
    attention = attention_of(llm)
    expected = sum(bound(llm, block.front, block.tokens, attention) for block in blocks)
    assert found.log_likelihood == pytest.approx(expected, rel=1e-4)


def test_drawn_masks_estimate_the_sum_over_all_without_bias(llm):
    exact = score(llm, ANSWER)[0].log_likelihood
    rows = {mask.positions: sum(log_probs(llm, CONTEXT, ANSWER, mask.positions, attention_of(llm)))
            for mask in all_masks(len(ANSWER))}  # fmt: skip
    estimates = np.array([
        sum(mask.weight * rows[mask.positions] for mask in drawn_masks(6, 5, random.Random(seed)))
        for seed in range(2000)
    ])  # fmt: skip
    error = estimates.std() / math.sqrt(len(estimates))
    assert abs(estimates.mean() - exact) < 4 * error
    assert error < 0.01 * abs(exact), "or the comparison says nothing"
    # And the engine's estimate is that of the masks which its seed draws.
    [found] = score(llm, ANSWER, samples=5, seed=3)
    assert min(abs(estimates - found.log_likelihood)) < abs(exact)
    assert found.log_likelihood != exact


@pytest.mark.parametrize("length", [1, 2, 5, 9])
@pytest.mark.parametrize("samples", [1, 4, 31, 200])
def test_masks_weigh_what_the_definition_says(length, samples):
    masks = block_masks(length, samples, "key")
    assert len(masks) <= samples
    assert len({mask.positions for mask in masks}) == len(masks)
    # A mean of l tokens' sums times L / l: with log-probabilities of -1 every mask gives -L.
    assert sum(mask.weight * len(mask.positions) for mask in masks) == pytest.approx(length)
    assert masks == block_masks(length, samples, "key")
    if 2**length - 1 > samples > 1:
        assert masks != block_masks(length, samples, "another key")


def test_a_score_depends_on_the_seed_and_on_nothing_else_in_the_batch(llm):
    other = ANSWER[::-1]
    one = score(llm, ANSWER, samples=8, seed=1)[0]
    assert score(llm, other, ANSWER, (5,), samples=8, seed=1)[1] == pytest.approx(one, abs=1e-4)
    assert score(llm, ANSWER, samples=8, seed=2)[0].log_likelihood != one.log_likelihood
    empty, single = score(llm, (), (5,), samples=8)
    assert (empty.log_likelihood, empty.is_greedy, empty.forwards) == (0.0, True, 0)
    assert single.forwards == 1


def greedy_answer(llm: LLM, length: int, context: Sequence[int]) -> list[int]:
    params = SamplingParams(
        max_tokens=length, block_length=llm.engine.spec.block_length or length, ignore_eos=True,
        remasking="low_confidence",
        cache="none" if llm.engine.spec.mask_block is None else "auto",
    )  # fmt: skip
    [output] = llm.generate([{"prompt_token_ids": list(context)}], params)
    return list(output.token_ids)


@pytest.mark.parametrize("samples", [1, 40])
def test_greedy_is_what_one_token_per_step_writes(llm, samples):
    written = greedy_answer(llm, 12, CONTEXT)
    changed = [*written[:-1], written[-1] % 90 + 5]
    greedy, other = score(llm, written, changed, samples=samples)
    assert greedy.is_greedy
    assert not other.is_greedy
    assert greedy.log_likelihood > other.log_likelihood
    [unasked] = score(llm, written, samples=samples, check_greedy=False)
    assert unasked.is_greedy is None
    assert unasked.log_likelihood == pytest.approx(greedy.log_likelihood, abs=1e-4)
    assert unasked.forwards < greedy.forwards


@pytest.mark.parametrize("architecture", ["dream", "fast-dllm-v2", "nemotron-diffusion", "llada2"])
def test_greedy_is_that_of_every_family(tmp_path, architecture):
    make_sharp(tmp_path / "model", architecture)
    llm = make_llm(tmp_path / "model", num_threads=1)
    written = greedy_answer(llm, 9, CONTEXT)
    found = score(llm, written, [*written[:4], written[4] + 1, *written[5:]], samples=2)
    assert [each.is_greedy for each in found] == [True, False]


def test_what_has_no_bound_or_no_room_is_refused(tmp_path: Path):
    make_sharp(tmp_path / "model", "diffusion-gemma")
    engine = make_llm(tmp_path / "model", num_threads=1).engine
    with pytest.raises(ConfigError, match=r"DiffusionGemma.*use tasks that generate"):
        LikelihoodScorer(engine)
    llm = LLM("tiny-sdar", num_threads=1, device="cpu")
    with pytest.raises(ConfigError, match="at least one mask"):
        LikelihoodScorer(llm.engine, samples=0)
    with pytest.raises(RequestError, match="the model allows 512"):
        score(llm, (5,), [7] * 600)
    with pytest.raises(RequestError, match="question 0 has no context"):
        score(llm, (5,), context=())
    assert_all_pages_free(llm.engine)


def test_given_tokens_of_a_block_causal_model_see_the_rest_of_their_block_only():
    engine = LLM("tiny-sdar", num_threads=1, device="cpu").engine
    params = SamplingParams(logprobs=0)
    engine.add_request(list(CONTEXT), params, template=[None, 60, 22], given=[15])
    [output] = [each for each in engine.step() if isinstance(each, RequestOutput)]
    assert output.token_ids == (15, 60, 22)
    assert output.logprobs is not None and len(output.logprobs) == 1
    with pytest.raises(RequestError, match="of which 10 are left for the template"):
        engine.add_request(list(CONTEXT), params, template=[None, *[5] * 10], given=[15])
    with pytest.raises(RequestError, match="sees nothing behind"):
        engine.add_request(list(CONTEXT), params, template=[None, 5])
