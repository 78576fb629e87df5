"""Bias, penalties and forbidden tokens on the rows of one request."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from starr_engine.decoding.bad_words import BadWords
from starr_engine.decoding.logits import OutputCanvas, TokenRules, count_standing

MASK, EOS = 0, 1
INF = float("inf")


def canvas(prompt: list[int], output: list[int], positions: list[int] | None = None):
    masks = [place for place, token in enumerate(output) if token == MASK]
    return OutputCanvas(
        prompt_ids=np.array(prompt, np.int32),
        output_ids=np.array(output, np.int32),
        positions=np.array(masks if positions is None else positions, np.int64),
        mask_token_id=MASK,
    )


def apply(rules: TokenRules, seen: OutputCanvas, logits: torch.Tensor | None = None):
    if logits is None:
        logits = torch.zeros((len(seen.positions), 6))
    before = logits.clone()
    after = rules.apply(logits, seen)
    assert torch.equal(logits, before), "the model's logits are changed"
    assert after.dtype is torch.float32
    return after


def test_no_rule_changes_nothing() -> None:
    assert not TokenRules().change_logits
    logits = torch.randn((2, 6))
    assert torch.equal(apply(TokenRules(), canvas([2], [0, 0]), logits), logits)


@pytest.mark.parametrize(
    ("rules", "read_canvas"),
    [
        (TokenRules(forbidden_ids=(2,)), False),
        (TokenRules(allowed_ids=(2,)), False),
        (TokenRules(min_tokens=1, end_ids=(1,)), False),
        (TokenRules(bias_ids=(2,), bias=(1.0,)), False),
        (TokenRules(repetition_penalty=2.0), True),
        (TokenRules(presence_penalty=0.5), True),
        (TokenRules(frequency_penalty=-0.5), True),
        (TokenRules(bad_words=BadWords(words=((2, 3),))), True),
    ],
)
def test_every_rule_counts_as_a_change_and_some_depend_on_the_canvas(
    rules: TokenRules, read_canvas: bool
) -> None:
    assert rules.change_logits
    assert rules.read_canvas == read_canvas


def test_forbidden_and_allowed_tokens() -> None:
    seen = canvas([2], [0, 0])
    assert apply(TokenRules(forbidden_ids=(2, 4)), seen).tolist() == [[0, 0, -INF, 0, -INF, 0]] * 2
    allowed = TokenRules(allowed_ids=(2, 4, 5), forbidden_ids=(4,))
    assert apply(allowed, seen).tolist() == [[-INF, -INF, 0, -INF, -INF, 0]] * 2


def test_a_token_that_stands_at_its_row_is_not_forbidden_there() -> None:
    rules = TokenRules(allowed_ids=(2,), bias_ids=(4,), bias=(7.0,))
    after = apply(rules, canvas([2], [4, 0], [0, 1]))
    assert after.tolist() == [[-INF, -INF, 0, -INF, 7, -INF], [-INF, -INF, 0, -INF, -INF, -INF]]


def test_nothing_may_end_before_min_tokens() -> None:
    rules = TokenRules(min_tokens=3, end_ids=(EOS, 5))
    after = apply(rules, canvas([2], [2, 0, 0, 0, 0]))
    early, late = [0, -INF, 0, 0, 0, -INF], [0.0] * 6
    assert after.tolist() == [early, early, late, late]


def test_bias_is_added_and_does_not_bring_back_what_is_forbidden() -> None:
    rules = TokenRules(bias_ids=(2, 3), bias=(1.5, 100.0), forbidden_ids=(3,))
    assert apply(rules, canvas([2], [0])).tolist() == [[0, 0, 1.5, -INF, 0, 0]]


def test_bias_on_bfloat16_logits_is_not_rounded_away() -> None:
    logits = torch.full((1, 6), 20.0, dtype=torch.bfloat16)
    after = apply(TokenRules(bias_ids=(2,), bias=(0.01,)), canvas([2], [0]), logits)
    assert after[0, 2].item() == pytest.approx(20.01)


def test_repetition_penalty_equals_that_of_transformers() -> None:
    logits = 3 * torch.randn((4, 20), generator=torch.Generator().manual_seed(0))
    prompt, output = [4, 9, 9, 17], [5, MASK, 4, MASK, MASK, 12, MASK, 5]
    after = apply(TokenRules(repetition_penalty=1.7), canvas(prompt, output), logits)
    ids = torch.tensor([prompt + [token for token in output if token != MASK]]).expand(4, -1)
    assert torch.equal(after, RepetitionPenaltyLogitsProcessor(1.7)(ids, logits.clone()))


def test_presence_counts_once_and_frequency_each_time_and_the_prompt_not_at_all() -> None:
    seen = canvas([2, 5], [3, 0, 3, 4, 3])
    rules = TokenRules(presence_penalty=0.5, frequency_penalty=0.25)
    assert apply(rules, seen).tolist() == [[0, 0, 0, -1.25, -0.75, 0]]


def test_eos_fills_the_canvas_and_is_not_counted() -> None:
    rules = TokenRules(presence_penalty=1, repetition_penalty=2, uncounted_ids=(EOS,))
    after = apply(rules, canvas([EOS, 2], [0, EOS, EOS]), torch.ones((1, 6)))
    assert after.tolist() == [[1, 1, 0.5, 1, 1, 1]]


def test_a_row_does_not_count_its_own_token() -> None:
    ids, in_prompt, counts = count_standing(canvas([2], [3, 3, 4, 0], [0, 1, 2, 3]), ())
    assert (ids.tolist(), in_prompt.tolist()) == ([2, 3, 4], [True, False, False])
    assert counts.tolist() == [[0, 1, 1], [0, 1, 1], [0, 2, 0], [0, 2, 1]]


def test_penalties_come_after_bias_as_in_vllm() -> None:
    rules = TokenRules(bias_ids=(2,), bias=(3.0,), repetition_penalty=2.0)
    assert apply(rules, canvas([2], [0]), torch.ones((1, 6)))[0, 2] == 2.0


def test_a_canvas_without_counted_tokens_is_left_alone() -> None:
    rules = TokenRules(presence_penalty=1.0, uncounted_ids=(2,))
    assert apply(rules, canvas([2], [0])).tolist() == [[0.0] * 6]


def test_bad_words_forbid_the_token_that_would_complete_one() -> None:
    rules = TokenRules(bad_words=BadWords(words=((2, 3, 4),)))
    after = apply(rules, canvas([5], [2, 3, 0, 3, 4, 0]))
    # Position 2 could complete 2 3 [4] and [2] 3 4; position 5 has no 2 3 before it.
    assert after.tolist() == [[0, 0, -INF, 0, -INF, 0], [0.0] * 6]
