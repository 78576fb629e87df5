"""Masks that go at a time of their own, against the draws behind them."""

from __future__ import annotations

import pytest

from starr_engine.decoding.draws import uniform
from starr_engine.decoding.policies.ancestral import AncestralPolicy
from starr_engine.errors import RequestError
from tests.helpers.policy_views import unmasked, view


def steps_of(policy: AncestralPolicy, seed: int) -> list[list[int]]:
    """What goes at each step of a block of 8."""
    masked, steps = [True] * 8, []
    while any(masked):
        look = view([0.5] * 8, masked=masked, step=len(steps), seed=seed)
        steps.append(unmasked(policy, look))
        for place in steps[-1]:
            masked[place] = False
    return steps


def test_a_mask_goes_at_the_first_step_that_ends_at_or_below_its_draw() -> None:
    # T = 4, eps = .2: the steps end at .8, .6, .4 and .2, and the last takes what is left.
    policy = AncestralPolicy(num_steps_per_block=4, eps=0.2)
    for seed in range(20):
        draws = uniform(view([0.5] * 8, seed=seed))[0].tolist()
        bins: list[list[int]] = [[], [], [], []]
        for place, draw in enumerate(draws):
            bins[0 if draw >= 0.8 else 1 if draw >= 0.6 else 2 if draw >= 0.4 else 3].append(place)
        assert steps_of(policy, seed) == [places for places in bins if places]


def test_one_step_takes_all_and_arguments_are_checked() -> None:
    assert unmasked(AncestralPolicy(num_steps_per_block=1), view([0.1] * 3)) == [0, 1, 2]
    with pytest.raises(RequestError, match="num_steps_per_block must be an integer >= 1"):
        AncestralPolicy(num_steps_per_block=0)
    with pytest.raises(RequestError, match="eps must be a number in"):
        AncestralPolicy(eps=1.5)
