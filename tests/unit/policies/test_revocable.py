"""Saber and T2M, which take tokens back, against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from starr_engine.decoding.base import BlockView, Decision
from starr_engine.decoding.policies.saber import SaberPolicy
from starr_engine.decoding.policies.t2m import T2mPolicy
from starr_engine.errors import RequestError
from tests.helpers.policy_views import view

CPU = torch.device("cpu")


def changes(decision: Decision) -> tuple[list[int], list[int]]:
    """What is unmasked, and what is revoked."""
    assert decision.revoke is not None
    unmask, revoke = decision.unmask[0].nonzero(), decision.revoke[0].nonzero()
    return unmask[:, 0].tolist(), revoke[:, 0].tolist()


def with_top1(look: BlockView, top1: list[float]) -> BlockView:
    return replace(look, top1=torch.tensor([top1]))


def test_saber_takes_what_is_above_the_average_and_gives_back_what_lost_most() -> None:
    policy = SaberPolicy(n=2)
    # Nothing was unmasked yet: theta = 1, so the two best, of which r = 1 goes back: the one that
    # rose less from 0.
    decision, state = policy.decide(view([0.9, 0.5, 0.7, 0.3]), policy.init_state(1, 4, CPU))
    assert changes(decision) == ([0], [])
    # theta = (.9 + .7) / 2 = .8, S = {1, 2}, r = max(1, ceil(2 / 8)) = 1. Since the last step the
    # most probable token of position 0 went from .9 to .6, of 1 from .5 to .85, of 2 .7 to .95.
    masked = [False, True, True, True]
    look = with_top1(view([0.4, 0.85, 0.95, 0.3], masked=masked, step=1), [0.6, 0.85, 0.95, 0.3])
    decision, state = policy.decide(look, state)
    assert decision.signals is not None
    assert decision.signals["threshold"].item() == pytest.approx(0.8)
    assert changes(decision) == ([1, 2], [0])
    # theta = (.9 + .85 + .95) / 3 = .9: the revoked one counts. Nothing is above, n = 2 are left:
    # with them the block is full, and nothing goes back.
    masked = [True, False, False, True]
    look = view([0.8, 0.1, 0.1, 0.3], masked=masked, step=2)
    decision, _ = policy.decide(look, state)
    assert decision.signals is not None
    assert decision.signals["threshold"].item() == pytest.approx(0.9)
    assert changes(decision) == ([0, 3], [])


@pytest.mark.parametrize(
    ("n", "size", "net"),
    [
        (2, 20, 17),  # r = max(1, ceil(20 / 8)) = 3
        (8, 20, 16),  # r = max(4, 3)
        (2, 2, 1),
        (1, 1, 1),  # r is at most |S| - 1
    ],
)
def test_saber_nets_at_least_one_token_a_step(n: int, size: int, net: int) -> None:
    policy = SaberPolicy(n=n)
    state = policy.init_state(1, 40, CPU)
    state = state | {"accepted": state["accepted"].clone()}
    state["accepted"][0, 0] = 0.5  # theta
    look = view([0.9] * size + [0.1] * (40 - size))
    decision, _ = policy.decide(look, state)
    assert changes(decision) == (list(range(net)), [])


def test_t2m_masks_improbable_tokens_again_the_least_probable_first() -> None:
    policy = T2mPolicy(max_share=0.5)
    look = view([0.45, 0.4, 0.6, 0.75, 0.65], masked=[False, False, False, True, True])
    decision, state = policy.decide(look, policy.init_state(1, 5, CPU))
    assert changes(decision) == ([3], [1])  # floor(.5 * 3) = 1 of the two below .5
    assert state["resets"][0].tolist() == [0, 1, 0, 0, 0]
    every = T2mPolicy(max_share=1.0)
    assert changes(every.decide(look, state)[0]) == ([3], [0, 1])
    never = T2mPolicy(max_share=0.0)
    assert changes(never.decide(look, state)[0]) == ([3], [1])  # always at least one


def test_t2m_tells_apart_tokens_that_are_all_but_impossible() -> None:
    # 1 - 2e-9 and 1 - 1e-9 are both 1 in float32.
    policy = T2mPolicy(max_share=0.5)
    look = view([2e-9, 1e-9], masked=[False, False])
    decision, _ = policy.decide(look, policy.init_state(1, 2, CPU))
    assert changes(decision) == ([], [1])


def test_t2m_masks_no_position_again_more_often_than_it_may() -> None:
    policy = T2mPolicy(max_resets=2)
    look = view([0.4, 0.45], masked=[False, False])
    state = policy.init_state(1, 2, CPU)
    revoked = []
    for _ in range(5):
        decision, state = policy.decide(look, state)
        revoked.append(changes(decision)[1])
    assert revoked == [[0], [0], [1], [1], []]


def test_t2m_can_ask_for_a_sure_rival() -> None:
    # Of the tokens that are not the most probable ones, rivals at .95, .92 and .85.
    look = with_top1(view([0.95, 0.02, 0.03, 0.1], masked=[False] * 4), [0.95, 0.92, 0.95, 0.85])
    policy = T2mPolicy(strategy="t2t_remask")
    decision, state = policy.decide(look, policy.init_state(1, 4, CPU))
    assert changes(decision) == ([], [2])
    every = T2mPolicy(strategy="t2t_remask", max_share=1.0)
    assert changes(every.decide(look, state)[0]) == ([], [1, 2])


def test_t2m_can_ask_for_a_change_in_either_direction() -> None:
    policy = T2mPolicy(strategy="logit_diff", max_share=1.0)
    first = view([0.9, 0.5, 0.6], masked=[True, False, False])
    decision, state = policy.decide(first, policy.init_state(1, 3, CPU))
    assert changes(decision) == ([0], [])  # nothing to compare with yet
    second = view([0.5, 0.9, 0.7], masked=[False] * 3, step=1)
    decision, _ = policy.decide(second, state)
    assert changes(decision) == ([], [0, 1])


@pytest.mark.parametrize(
    ("policy", "args", "message"),
    [
        (SaberPolicy, {"n": 0}, "n must be an integer >= 1, got 0"),
        (
            T2mPolicy,
            {"strategy": "low"},
            "strategy must be one of low_prob, t2t_remask",
        ),
        (T2mPolicy, {"remask_threshold": 2}, r"remask_threshold must be a number in \[0, 1\]"),
        (T2mPolicy, {"max_resets": -1}, "max_resets must be an integer >= 0"),
    ],
)
def test_bad_arguments_are_refused(policy: Any, args: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        policy(**args)
