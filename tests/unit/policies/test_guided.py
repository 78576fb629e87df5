"""TACG and CreditDecoding, which change the logits themselves, against hand-worked numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from starr_engine.decoding.base import BlockView
from starr_engine.decoding.policies.credit import CreditPolicy
from starr_engine.decoding.policies.tacg import TacgPolicy
from starr_engine.errors import RequestError
from tests.helpers.policy_views import unmasked, view

CPU = torch.device("cpu")
ANY = [[0.0, 0.0]]


def confident(*confidence: float, **changes: Any) -> BlockView:
    """Masks with these confidences whose logits say nothing, so that no probability rises."""
    return view(list(confidence), candidates=[0] * len(confidence), logits=ANY * len(confidence))


def test_tacg_adds_the_best_of_the_nearly_sure_to_the_sure() -> None:
    args: dict[str, Any] = {"min_streak": 1}  # no gate
    look = confident(0.95, 0.82, 0.85, 0.5)
    # One is sure: m = min(2, ceil(.25 * 1)) = 1, then min(2, ceil(2 * 1)) = 2, then 0.
    assert unmasked(TacgPolicy(**args), look) == [0, 2]
    assert unmasked(TacgPolicy(extra_ratio=2, **args), look) == [0, 1, 2]
    assert unmasked(TacgPolicy(extra_max=0, **args), look) == [0]
    # None is sure: as if one were, or none at all and the best by score.
    look = confident(0.82, 0.85, 0.5)
    assert unmasked(TacgPolicy(extra_ratio=2, **args), look) == [0, 1]
    assert unmasked(TacgPolicy(extra_ratio=2, allow_empty_base=False, **args), look) == [1]
    look = confident(0.3, 0.5, 0.4)
    assert unmasked(TacgPolicy(tokens_per_step=2, **args), look) == [1, 2]


def test_tacg_lets_a_candidate_go_when_it_has_lasted_or_is_beyond_doubt() -> None:
    policy = TacgPolicy(min_streak=3, escape=0.95)
    assert unmasked(policy, confident(0.92, 0.96)) == [1]
    assert unmasked(policy, confident(0.91, 0.92)) == [1]  # none may go: the best of them does
    state = policy.init_state(1, 2, CPU)
    for _ in range(2):
        _, state = policy.decide(confident(0.91, 0.92), state)
    assert unmasked(policy, confident(0.91, 0.92), state) == [0, 1]
    changed = replace(confident(0.91, 0.92), candidates=torch.tensor([[0, 1]]))
    assert unmasked(policy, changed, state) == [0]


def test_tacg_scores_a_rising_probability_higher() -> None:
    # Mask 0 from (1/2, 1/2) to (3/4, 1/4): with w = 1, G = 2 L = (2 ln 3, 0), so
    # b = 9/10 - 1/2 = .4 and the score is .75 + .5 * .4 = .95. Mask 1 stays at (4/5, 1/5): .8.
    policy = TacgPolicy(guidance=1, bonus=0.5, decay=0.5, floor=0.9, min_streak=1)
    steady = [math.log(4), 0.0]
    _, state = policy.decide(
        view([0.5, 0.8], candidates=[0, 0], logits=[[0.0, 0.0], steady]),
        policy.init_state(1, 2, CPU),
    )
    look = view([0.75, 0.8], candidates=[0, 0], logits=[[math.log(3), 0.0], steady], step=1)
    decision, state = policy.decide(look, state)
    assert decision.signals is not None
    assert decision.signals["score"][0].tolist() == pytest.approx([0.95, 0.8])
    assert decision.unmask[0].tolist() == [True, False]
    average = state["average"][0].tolist()
    assert average[0] == pytest.approx([0.5 * math.log(3), 0.0])
    assert average[1] == pytest.approx(steady)


def test_tacg_never_makes_a_number_of_a_forbidden_token() -> None:
    policy = TacgPolicy()
    look = view([0.9], logits=[[0.0, -math.inf]])
    _, state = policy.decide(look, policy.init_state(1, 1, CPU))
    decision, state = policy.decide(look, state)
    assert decision.signals is not None and decision.signals["score"].isfinite().all()
    assert state["average"].isfinite().all()


def odds(*rows: tuple[float, float], confidence: list[float] | None = None) -> BlockView:
    """Masks with these probabilities of tokens 0 and 1; the mask token is 2."""
    logits = [[math.log(row[0]), math.log(row[1]), -math.inf] for row in rows]
    return view(
        confidence or [max(row) for row in rows],
        candidates=[int(row[1] > row[0]) for row in rows],
        logits=logits,
    )


def test_credit_adds_the_leading_probability_to_the_leader() -> None:
    # C = (.6, 0): l' = (ln(.6 * 1.6), ln .4), so c = .96 / 1.36.
    policy = CreditPolicy(alpha=1, gamma=1, decay=0.5, threshold=0.7)
    decision, state = policy.decide(odds((0.6, 0.4)), policy.init_state(1, 1, CPU))
    assert decision.signals is not None and decision.tokens is not None
    assert decision.signals["confidence"][0].tolist() == pytest.approx([0.96 / 1.36])
    assert decision.unmask.item()
    # C = (.5 * .6, .55): l' = (ln(.45 * 1.3), ln(.55 * 1.55)), so c = .8525 / 1.4375.
    decision, state = policy.decide(odds((0.45, 0.55)), state)
    assert decision.signals is not None and decision.tokens is not None
    assert decision.signals["confidence"][0].tolist() == pytest.approx([0.8525 / 1.4375])
    assert decision.tokens.item() == 1
    assert state["credit"][0, 0].tolist() == pytest.approx([0.3, 0.55, 0.0])


def test_credit_keeps_a_token_that_has_led_for_long() -> None:
    # gamma = 0 credits each lead with 1: C = (2, 1), l' = (ln(.45 * 3), ln(.55 * 2)).
    policy = CreditPolicy(alpha=1, gamma=0, decay=1, threshold=0.55)
    state = policy.init_state(1, 1, CPU)
    for _ in range(2):
        _, state = policy.decide(odds((0.6, 0.4)), state)
    look = odds((0.45, 0.55))
    decision, _ = policy.decide(look, state)
    assert look.candidates.item() == 1
    assert decision.tokens is not None and decision.tokens.item() == 0
    assert decision.signals is not None
    assert decision.signals["confidence"].item() == pytest.approx(1.35 / 2.45)
    assert decision.unmask.item()
    # Noise decides among the logits with credit: +1 for token 1 beats ln(1.35 / 1.1) = .205.
    noisy = replace(look, sampling_logits=look.logits + torch.tensor([0.0, 1.0, 0.0]))
    decision, _ = policy.decide(noisy, state)
    assert decision.tokens is not None and decision.tokens.item() == 1
    assert decision.signals is not None
    assert decision.signals["confidence"].item() == pytest.approx(1.1 / 2.45)


def test_credit_without_weight_is_the_static_threshold() -> None:
    policy = CreditPolicy(alpha=0, threshold=0.75)
    assert unmasked(policy, odds((0.8, 0.2), (0.7, 0.3), (0.1, 0.9))) == [0, 2]


def test_credit_falls_back_to_the_best_with_credit() -> None:
    policy = CreditPolicy(alpha=1, gamma=1, decay=1, threshold=1.0)
    _, state = policy.decide(odds((0.7, 0.3), (0.5, 0.5)), policy.init_state(1, 2, CPU))
    # .65 * 2.35 / (.65 * 2.35 + .35) = .814 beats .7 * 2.2 / (.7 * 2.2 + .3) = .837.
    look = odds((0.65, 0.35), (0.3, 0.7))
    assert unmasked(policy, look, state) == [0]


def test_tokens_of_the_block_earn_nothing_and_stay() -> None:
    policy = CreditPolicy()
    look = replace(odds((0.6, 0.4), (0.6, 0.4)), masked=torch.tensor([[False, True]]))
    look = replace(look, candidates=torch.tensor([[1, 0]]))
    decision, state = policy.decide(look, policy.init_state(1, 2, CPU))
    assert decision.tokens is not None and decision.tokens[0].tolist() == [1, 0]
    assert state["credit"][0, 0].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("policy", "args", "message"),
    [
        (TacgPolicy, {"decay": 1.5}, r"decay must be a number in \[0, 1\]"),
        (TacgPolicy, {"min_streak": 0}, "min_streak must be an integer >= 1"),
        (TacgPolicy, {"allow_empty_base": 1}, "allow_empty_base must be True or False"),
        (CreditPolicy, {"gamma": -1}, "gamma must be a finite number >= 0"),
        (CreditPolicy, {"decay": 2}, r"decay must be a number in \[0, 1\]"),
    ],
)
def test_bad_arguments_are_refused(policy: Any, args: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        policy(**args)
