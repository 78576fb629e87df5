"""Policies with a fixed number of positions per step, against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from starr_engine.decoding.base import RemaskingPolicy
from starr_engine.decoding.draws import uniform
from starr_engine.decoding.policies.entropy import EntropyPolicy
from starr_engine.decoding.policies.low_confidence import LowConfidencePolicy
from starr_engine.decoding.policies.margin import MarginPolicy
from starr_engine.decoding.policies.random import RandomPolicy
from starr_engine.errors import RequestError
from tests.helpers.policy_views import unmasked, view


def test_the_three_scores_choose_three_positions() -> None:
    # Most probable: 0 (.6). Largest lead: 1 (.5 - .1). Least entropy: 2.
    look = view([0.6, 0.5, 0.4], top2=[0.4, 0.1, 0.35], entropy=[0.9, 0.8, 0.7])
    assert unmasked(LowConfidencePolicy(), look) == [0]
    assert unmasked(MarginPolicy(), look) == [1]
    assert unmasked(EntropyPolicy(), look) == [2]


def test_margin_is_of_the_two_largest_whatever_token_was_drawn() -> None:
    # At a temperature the candidate of 0 is an unlikely one; its distribution still leads.
    look = view([0.05, 0.6], top2=[0.1, 0.4])
    look = replace(look, top1=torch.tensor([[0.9, 0.6]]))
    assert unmasked(MarginPolicy(), look) == [0]


def test_entropy_of_a_token_that_stands_is_not_compared() -> None:
    look = view([1.0, 0.2, 0.3], masked=[False, True, True], entropy=[0.0, 2.0, 1.5])
    assert unmasked(EntropyPolicy(), look) == [2]


@pytest.mark.parametrize("policy", [EntropyPolicy, MarginPolicy, LowConfidencePolicy])
def test_equal_scores_go_leftmost_first(policy: type[RemaskingPolicy]) -> None:
    assert unmasked(policy(tokens_per_step=2), view([0.5] * 4, entropy=[1.0] * 4)) == [0, 1]  # type: ignore[call-arg]


@pytest.mark.parametrize("policy", [RandomPolicy, EntropyPolicy, MarginPolicy])
def test_the_schedule_is_that_of_low_confidence(policy: type[RemaskingPolicy]) -> None:
    # 5 positions in 3 steps: 2, 2, 1; with more steps than positions one each, then none.
    counts = [
        len(unmasked(policy(num_steps_per_block=steps), view([0.1] * 5, step=t)))  # type: ignore[call-arg]
        for steps, t in [(3, 0), (3, 1), (3, 2), (7, 4), (7, 5)]
    ]
    assert counts == [2, 2, 1, 1, 0]


def test_more_than_there_are_masks_takes_all_of_them() -> None:
    look = view([0.9, 0.1, 0.1], masked=[False, True, True])
    assert unmasked(LowConfidencePolicy(tokens_per_step=9), look) == [1, 2]
    assert unmasked(RandomPolicy(tokens_per_step=9), look) == [1, 2]


def test_random_takes_the_largest_draws_of_its_seed_and_step() -> None:
    for step in range(3):
        look = view([0.9, 0.1, 0.5, 0.3], step=step, seed=7)
        expected = uniform(look)[0].argsort(descending=True)[:2].sort().values.tolist()
        assert unmasked(RandomPolicy(tokens_per_step=2), look) == expected


def test_random_chooses_every_place_about_as_often() -> None:
    # 400 draws of 1 in 4: 100 each, standard deviation sqrt(400 * .25 * .75) = 8.7; 5 of them.
    counts = [0, 0, 0, 0]
    for seed in range(400):
        [place] = unmasked(RandomPolicy(), view([0.9, 0.1, 0.5, 0.3], seed=seed))
        counts[place] += 1
    assert all(abs(count - 100) < 44 for count in counts), counts


@pytest.mark.parametrize("policy", [RandomPolicy, EntropyPolicy, MarginPolicy])
def test_arguments_are_checked_as_those_of_low_confidence(policy: type[RemaskingPolicy]) -> None:
    with pytest.raises(RequestError, match="tokens_per_step must be an integer >= 1, got 0"):
        policy(tokens_per_step=0)  # type: ignore[call-arg]
    with pytest.raises(RequestError, match="tokens_per_step or num_steps_per_block, not both"):
        policy(tokens_per_step=2, num_steps_per_block=2)  # type: ignore[call-arg]
