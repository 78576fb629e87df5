"""Remasking policies against numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from starr_engine.decoding.base import Decision
from starr_engine.decoding.guarantee import first_argmax, guarantee_progress
from starr_engine.decoding.policies.low_confidence import LowConfidencePolicy
from starr_engine.decoding.policies.starr import StarrPolicy
from starr_engine.decoding.policies.threshold import ThresholdPolicy
from starr_engine.errors import RequestError
from tests.helpers.policy_views import unmasked, view

NAN = math.nan


def test_threshold_takes_everything_at_or_above_the_line() -> None:
    look = view([0.95, 0.5, 0.75, 0.99], masked=[True, True, True, False])
    assert unmasked(ThresholdPolicy(threshold=0.75), look) == [0, 2]


def test_low_confidence_takes_the_k_best_leftmost_first_among_equals() -> None:
    look = view([0.5, 0.9, 0.5, 0.2])
    assert unmasked(LowConfidencePolicy(tokens_per_step=2), look) == [0, 1]


def test_low_confidence_schedule_gives_the_remainder_to_the_first_steps() -> None:
    # 5 positions in 3 steps: floor(5/3) = 1 each, one more in the first 5 mod 3 = 2 steps.
    policy = LowConfidencePolicy(num_steps_per_block=3)
    counts = [len(unmasked(policy, view([0.1, 0.2, 0.3, 0.4, 0.5], step=t))) for t in range(3)]
    assert counts == [2, 2, 1]


def test_starr_first_step_has_no_stability_and_uses_the_step_threshold() -> None:
    # Median of {.2, .4, .9} is .4; one step seen, so s = 0; beta and gamma are off.
    policy = StarrPolicy(
        quantile=0.5, tau_min=0.1, tau_max=0.95, alpha=0.5, beta=0, gamma=0, c_slow=0, c_fast=1
    )
    assert unmasked(policy, view([0.2, 0.4, 0.9])) == [1, 2]


def test_starr_stability_lowers_the_threshold() -> None:
    # Two steps of a window of 2: c = .6, .7, so TV = .05 and s = exp(-.05/.1) = .6065.
    # tau = .9 - .3 * .6065 = .718 > .7: waits; with alpha = .4 tau = .657: goes.
    args: dict[str, Any] = {
        "temporal_window": 2,
        "sigma": 0.1,
        "tau_min": 0.9,
        "tau_max": 0.9,
        "beta": 0,
        "gamma": 0,
        "c_slow": 0,
        "c_fast": 1,
    }
    for alpha, expected in ((0.3, []), (0.4, [0])):
        policy = StarrPolicy(alpha=alpha, **args)
        _, state = policy.decide(
            view([0.6], candidates=[7]), policy.init_state(1, 1, torch.device("cpu"))
        )
        assert unmasked(policy, view([0.7], candidates=[7], step=1), state) == expected
        # Another candidate empties the window, and the static line holds.
        assert unmasked(policy, view([0.7], candidates=[8], step=1), state) == []


def test_starr_settled_neighbours_lower_the_threshold() -> None:
    # Window 1, middle position: neighbours are unmasked (1) and a mask at .5, so u = .75.
    # tau = .9 - .8 * (.75 - .5) = .7. The last has the middle alone: u = .7, tau = .74.
    policy = StarrPolicy(
        temporal_window=1, neighbour_window=1, tau_min=0.9, tau_max=0.9, alpha=0, beta=0.8,
        support=0.5, gamma=0, c_slow=0, c_fast=1,
    )  # fmt: skip
    assert unmasked(policy, view([1.0, 0.7, 0.5], masked=[False, True, True])) == [1]


def test_starr_standing_below_the_neighbours_raises_the_threshold() -> None:
    # u = 1 on both sides, SD = .8 - 1 = -.2, s = 0: tau = .7 + 1 * .2 = .9 > .8.
    args: dict[str, Any] = {
        "neighbour_window": 1,
        "tau_min": 0.7,
        "tau_max": 0.7,
        "alpha": 0,
        "beta": 0,
        "c_slow": 0,
        "c_fast": 1,
    }
    look = view([1.0, 0.8, 1.0], masked=[False, True, False])
    assert unmasked(StarrPolicy(gamma=1, **args), look) == []
    assert unmasked(StarrPolicy(gamma=0, **args), look) == [1]


def test_starr_fast_tokens_go_and_slow_tokens_stay_whatever_the_rest_says() -> None:
    # c_fast caps the raised threshold, c_slow stops the lowered one.
    raised = StarrPolicy(tau_min=0.9, tau_max=0.9, alpha=0, beta=0, gamma=9, c_fast=0.9, c_slow=0)
    assert unmasked(raised, view([1.0, 0.9, 1.0], masked=[False, True, False])) == [1]
    lowered = StarrPolicy(tau_min=0, tau_max=0, alpha=0, beta=2, gamma=0, c_fast=1, c_slow=0.4)
    assert unmasked(lowered, view([0.39, 0.41])) == [1]


def test_starr_patience_lowers_the_threshold_down_to_c_slow() -> None:
    # run 1, 2, 3, 4, 5 and patience 2: overdue 0, 0, 1, 2, 3 steps of .1 below .9, floor .65.
    policy = StarrPolicy(
        temporal_window=1, neighbour_window=0, tau_min=0.9, tau_max=0.9, alpha=0, beta=0, gamma=0,
        c_fast=0.9, c_slow=0.65, patience=2, relax=0.1,
    )  # fmt: skip
    state = policy.init_state(1, 2, torch.device("cpu"))
    released = []
    for step in range(5):
        decision, state = policy.decide(view([0.71, 0.6], candidates=[5, 5], step=step), state)
        released.append(decision.unmask[0].tolist())
    assert released == [[False, False]] * 3 + [[True, False]] * 2


def test_starr_revokes_a_token_at_most_once() -> None:
    policy = StarrPolicy(revoke_below=0.5)
    assert policy.scores_unmasked
    state = policy.init_state(1, 2, torch.device("cpu"))
    look = view([0.4, 0.6], masked=[False, False])
    decision, state = policy.decide(look, state)
    assert decision.revoke is not None
    assert decision.revoke.tolist() == [[True, False]]
    decision, state = policy.decide(look, state)
    assert decision.revoke is not None
    assert not decision.revoke.any()


def test_progress_is_guaranteed_by_the_most_confident_mask_leftmost_first() -> None:
    look = view([0.9, 0.3, 0.3], masked=[False, True, True])
    nothing = Decision(unmask=torch.zeros(1, 3, dtype=torch.bool))
    assert guarantee_progress(look, nothing).unmask.tolist() == [[False, True, False]]
    done = view([1.0, 1.0], masked=[False, False])
    nothing = Decision(unmask=torch.zeros(1, 2, dtype=torch.bool))
    assert not guarantee_progress(done, nothing).unmask.any()


def test_progress_is_guaranteed_at_a_mask_when_every_confidence_is_nan() -> None:
    look = view([1.0, NAN, NAN], masked=[False, True, True])
    nothing = Decision(unmask=torch.zeros(1, 3, dtype=torch.bool))
    assert guarantee_progress(look, nothing).unmask.tolist() == [[False, True, False]]
    look = view([1.0, NAN, 0.0], masked=[False, True, True])
    assert guarantee_progress(look, nothing).unmask.tolist() == [[False, False, True]]


def test_first_argmax_is_leftmost_and_survives_nan() -> None:
    values = torch.tensor([[0.1, 0.7, 0.7], [NAN, NAN, 0.0], [NAN, NAN, NAN]])
    assert first_argmax(values).tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ThresholdPolicy(threshold=3.0), "threshold must be a number in [0, 2]"),
        (lambda: LowConfidencePolicy(tokens_per_step=0), "tokens_per_step must be an integer >= 1"),
        (
            lambda: LowConfidencePolicy(tokens_per_step=2, num_steps_per_block=4),
            "tokens_per_step or num_steps_per_block, not both",
        ),
        (lambda: StarrPolicy(tau_min=0.9, tau_max=0.5), "tau_min must not exceed tau_max"),
        (lambda: StarrPolicy(c_slow=1.0, c_fast=0.9), "c_slow must not exceed c_fast"),
        (lambda: StarrPolicy(sigma=0), "sigma must be above 0"),
        (lambda: StarrPolicy(alpha=-1, gamma=math.inf), "alpha must be a finite number"),
        (lambda: StarrPolicy(quantile="x"), "quantile must be a number"),  # type: ignore[arg-type]
        (lambda: StarrPolicy(quantile=NAN), "quantile must be a number in [0, 1], got nan"),
        (lambda: StarrPolicy(beta=10**300), "beta must be a finite number"),
        (lambda: StarrPolicy(patience=2**70), "patience must be an integer >= 1"),
        (lambda: LowConfidencePolicy(tokens_per_step=2**70), "tokens_per_step must be an integer"),
        (lambda: LowConfidencePolicy(tokens_per_step=True), "tokens_per_step must be an integer"),
        (lambda: StarrPolicy(temporal_window=10**12), "temporal_window must be an integer from 1"),
        (lambda: StarrPolicy(neighbour_window=10**9), "neighbour_window must be an integer from 0"),
        (lambda: StarrPolicy(restart_on_flip=[]), "restart_on_flip must be True or False"),  # type: ignore[arg-type]
    ],
)
def test_arguments_out_of_range_are_refused(build: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message.replace("[", r"\[").replace("]", r"\]")):
        build()
