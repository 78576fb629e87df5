"""Policies that look at how distributions and candidates change, against hand-worked numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from starr_engine.decoding.base import Decision, RemaskingPolicy, State
from starr_engine.decoding.policies.dynamic_dllm import DynamicDllmPolicy
from starr_engine.decoding.policies.klass import KlassPolicy
from starr_engine.decoding.policies.stdec import StdecPolicy, decoded_share
from starr_engine.errors import RequestError
from tests.helpers.policy_views import unmasked, view

CPU = torch.device("cpu")


def logs(*rows: tuple[float, ...]) -> list[list[float]]:
    return [[math.log(p) if p else -math.inf for p in row] for row in rows]


def begin(policy: RemaskingPolicy, length: int) -> State:
    return policy.init_state(1, length, CPU)


def chosen(decision: Decision) -> list[int]:
    return decision.unmask[0].nonzero()[:, 0].tolist()


def signal(decision: Decision, name: str) -> list[float]:
    assert decision.signals is not None
    return decision.signals[name][0].tolist()


def test_klass_waits_for_distributions_to_come_to_rest() -> None:
    # d_0 = .9 ln(.9/.7) + .1 ln(.1/.3) = .116322, d_1 = 0; at the first step q is 0 and d huge.
    first = view([0.7, 0.65], logits=logs((0.7, 0.3), (0.65, 0.35)))
    second = view([0.9, 0.65], logits=logs((0.9, 0.1), (0.65, 0.35)), step=1)
    policy = KlassPolicy(history=1)
    decision, state = policy.decide(first, begin(policy, 2))
    assert chosen(decision) == [0]  # nothing is stable: the most confident
    assert min(signal(decision, "divergence")) > 20
    decision, _ = policy.decide(second, state)
    assert chosen(decision) == [1]
    assert signal(decision, "divergence") == pytest.approx([0.116322, 0.0], abs=1e-5)
    assert unmasked(KlassPolicy(history=1, epsilon=0.12), second, state) == [0, 1]
    # c > tau is strict.
    assert unmasked(KlassPolicy(history=1, tau=0.65), second, state) == [0]


def test_klass_needs_every_step_of_its_history_to_be_calm() -> None:
    policy = KlassPolicy(history=2)
    rest = logs((0.65, 0.35), (0.9, 0.1))
    state = begin(policy, 2)
    taken = []
    for step in range(4):
        # Position 0 rests from the first step on, position 1 from the second.
        shown = logs((0.65, 0.35), (0.7, 0.3)) if step == 0 else rest
        decision, state = policy.decide(view([0.65, 0.9], logits=shown, step=step), state)
        taken.append(chosen(decision))
    assert taken == [[1], [1], [0], [0, 1]]


def test_klass_fallback_takes_its_quota_of_masks_alone() -> None:
    look = view(
        [0.5, 0.9, 0.5, 0.4], masked=[True, False, True, True], logits=logs(*[(0.5, 0.5)] * 4)
    )
    assert unmasked(KlassPolicy(tokens_per_step=2), look) == [0, 2]


SHIFT = 1 - 0.5 / math.sqrt(0.5)
"""1 - cos((.5, .5), (1, 0)) = .292893"""


@pytest.mark.parametrize(
    ("args", "masked", "theta"),
    [
        # Mask 0 moves from (1, 0) to (.5, .5): A = .5; mask 1 stays at (1, 0): A = 1, D = 0.
        ({"mode": "token"}, [True, True], [0.9 - 0.05 + 0.5 * SHIFT, 0.8]),
        ({"mode": "mean"}, [True, True], [0.9 - 0.075 + 0.25 * SHIFT] * 2),
        ({"mode": "mean"}, [False, True], [0.8, 0.8]),
        ({"mode": "token", "theta_min": 0.85}, [True, True], [0.9 - 0.05 + 0.5 * SHIFT, 0.85]),
        ({"mode": "token", "theta_max": 0.5}, [True, True], [0.5, 0.5]),
    ],
)
def test_apd_moves_the_threshold_by_peak_and_shift(
    args: dict[str, Any], masked: list[bool], theta: list[float]
) -> None:
    policy = DynamicDllmPolicy(alpha=0.1, beta=0.5, theta_0=0.9, **args)
    calm = view([0.9, 0.89], top2=[0.0, 0.0], logits=logs((1.0, 0.0), (1.0, 0.0)))
    decision, state = policy.decide(calm, begin(policy, 2))
    assert chosen(decision) == [0]  # at theta_0 itself
    look = view(
        [0.5, 0.85], masked=masked, top2=[0.5, 0.0], logits=logs((0.5, 0.5), (1.0, 0.0)), step=1
    )
    decision, state = policy.decide(look, state)
    assert signal(decision, "threshold") == pytest.approx(theta, abs=1e-6)
    expected = [i for i in (0, 1) if masked[i] and (0.5, 0.85)[i] >= theta[i]]
    assert chosen(decision) == expected
    # The next step goes on from there: nothing shifts.
    decision, _ = policy.decide(look, state)
    assert signal(decision, "shift") == pytest.approx([0.0, 0.0], abs=1e-6)


def test_stdec_counts_decoded_neighbours_by_a_gaussian_of_their_distance() -> None:
    # sigma = 1: weights e^-.5, e^-2, e^-4.5 on each side, 1.50595 in all.
    look = view([0.5] * 4, masked=[False, True, True, True])
    near, next_, far = (math.exp(-(d**2) / 2) for d in (1, 2, 3))
    total = 2 * (near + next_ + far)
    share = decoded_share(look, 1.0)[0].tolist()
    assert share == pytest.approx([0.0, near / total, next_ / total, far / total])
    # One token in front of the block is one more neighbour of each, at one more step.
    share = decoded_share(view([0.5] * 2, num_left=1), 1.0)[0].tolist()
    assert share == pytest.approx([near / total, next_ / total])
    everything = decoded_share(view([0.5], num_left=9), 1.0)[0].tolist()
    assert everything == pytest.approx([0.5])  # nothing behind the block counts


def test_stdec_lowers_the_threshold_for_decoded_neighbours_and_steady_candidates() -> None:
    # sigma = 1/3: the two next neighbours weigh one half each. tau_1 = .9 - .2 * .5 = .8.
    policy = StdecPolicy(sigma=1 / 3, patience=2)
    look = view([1.0, 0.75, 0.75], masked=[False, True, True], candidates=[5, 6, 7])
    decision, state = policy.decide(look, begin(policy, 3))
    assert signal(decision, "threshold") == pytest.approx([0.9, 0.8, 0.9])
    assert chosen(decision) == []
    # The second step with one candidate: .2 less. The last one's candidate has changed.
    look = view([1.0, 0.75, 0.75], masked=[False, True, True], candidates=[5, 6, 8], step=1)
    decision, _ = policy.decide(look, state)
    assert signal(decision, "threshold") == pytest.approx([0.7, 0.6, 0.9])
    assert chosen(decision) == [1]


@pytest.mark.parametrize(
    ("policy", "args", "message"),
    [
        (KlassPolicy, {"history": 0}, "history must be an integer from 1 to 256, got 0"),
        (KlassPolicy, {"epsilon": -1}, "epsilon must be a finite number >= 0"),
        (DynamicDllmPolicy, {"mode": "row"}, "mode must be 'token' or 'mean', got 'row'"),
        (DynamicDllmPolicy, {"theta_min": 0.9, "theta_max": 0.5}, "must not exceed theta_max"),
        (DynamicDllmPolicy, {"theta_max": "high"}, "theta_max must be a number"),
        (StdecPolicy, {"sigma": 0}, "spatial=0 switches the spatial term off"),
        (StdecPolicy, {"sigma": 65}, "sigma must be above 0 and at most 64"),
        (StdecPolicy, {"patience": 1.5}, "patience must be an integer >= 1"),
    ],
)
def test_bad_arguments_are_refused(policy: Any, args: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        policy(**args)
