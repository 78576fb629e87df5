"""Dream's schedule and its drawn positions, against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from starr_engine.decoding.policies.maskgit_plus import MaskgitPlusPolicy
from starr_engine.errors import RequestError
from tests.helpers.policy_views import unmasked, view


def count(policy: MaskgitPlusPolicy, num_masks: int, time: int) -> int:
    masked = [place < num_masks for place in range(8)]
    state = {"time": torch.tensor([time])}
    return len(unmasked(policy, view([0.5] * 8, masked=masked), state))


def test_the_share_follows_linear_time_steps() -> None:
    # T = 4, eps = .2: t = 1, .8, .6, .4, so the shares are .2, .25, 1/3 and all.
    # Step 0, 8 masks: floor(1.6). Step 1, 7 masks: floor(1.75), and 6: floor(1.5).
    # Step 2, 5 masks: floor(1.67), and 7: floor(2.33). Step 3 and after: all.
    policy = MaskgitPlusPolicy(num_steps_per_block=4, eps=0.2)
    assert count(policy, 8, 0) == 1
    assert count(policy, 7, 1) == 1
    assert count(policy, 6, 1) == 1
    assert count(policy, 5, 2) == 1
    assert count(policy, 7, 2) == 2
    assert count(policy, 6, 3) == count(policy, 6, 9) == 6


def test_a_step_that_would_take_none_is_not_taken() -> None:
    # T = 8, eps = .001: 8 * .999/8 = .999, so none at step 0. At step 1 t goes from .875125 to
    # .75025, a share of .14269: 8 masks give 1.14.
    policy = MaskgitPlusPolicy()
    times = []
    state = policy.init_state(1, 8, torch.device("cpu"))
    for num_masks in (8, 7, 6):
        masked = [place < num_masks for place in range(8)]
        decision, state = policy.decide(view([0.5] * 8, masked=masked), state)
        assert decision.unmask.sum() == 1
        times.append(int(state["time"]))
    # Step 1, then 2 (7 masks: 1.16), then 3 (6 masks: 1.20): only the first step is skipped.
    assert times == [2, 3, 4]
    assert count(policy, 2, 7) == count(policy, 2, 9) == 2


def test_the_score_decides_which() -> None:
    # T = 2, eps = .001: at the first step floor(3 * .4995) = 1.
    look = view([0.6, 0.5, 0.4], top2=[0.4, 0.1, 0.35], entropy=[0.9, 0.8, 0.7])
    for score, place in [("confidence", 0), ("margin", 1), ("entropy", 2)]:
        assert unmasked(MaskgitPlusPolicy(num_steps_per_block=2, score=score), look) == [place]


def test_drawn_positions_follow_the_softmax_of_the_scores() -> None:
    # Scores .9 and .5 at temperature .4: odds e^(.4/.4) = e, so .731 of 600 draws or 438.6 are of
    # the first, standard deviation sqrt(600 * .731 * .269) = 10.9; 5 of them.
    policy = MaskgitPlusPolicy(num_steps_per_block=2, eps=0.0, alg_temp=0.4)
    picks = [unmasked(policy, view([0.9, 0.5], seed=seed)) for seed in range(600)]
    assert all(len(pick) == 1 for pick in picks)
    assert abs(picks.count([0]) - 438.6) < 55
    # Nearly without temperature the best always goes.
    cold = MaskgitPlusPolicy(num_steps_per_block=2, eps=0.0, alg_temp=1e-6)
    assert all(unmasked(cold, view([0.9, 0.5], seed=seed)) == [0] for seed in range(50))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"num_steps_per_block": 0}, "num_steps_per_block must be an integer >= 1"),
        ({"eps": -0.1}, "eps must be a number in"),
        ({"alg_temp": -1}, "alg_temp must be a finite number >= 0"),
        ({"score": "luck"}, "score must be one of confidence, margin, entropy, got 'luck'"),
        ({"score": ["margin"]}, "score must be one of confidence, margin, entropy"),
    ],
)
def test_arguments_out_of_range_are_refused(args: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        MaskgitPlusPolicy(**args)  # type: ignore[arg-type]
