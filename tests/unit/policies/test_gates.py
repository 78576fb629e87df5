"""Thresholds that move with progress, age, anchors and runs, against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from starr_engine.decoding.base import BlockView, Decision, RemaskingPolicy
from starr_engine.decoding.policies.age_threshold import AgeThresholdPolicy
from starr_engine.decoding.policies.hierarchy import HierarchyPolicy
from starr_engine.decoding.policies.local_leap import LocalLeapPolicy
from starr_engine.decoding.policies.progress_threshold import ProgressThresholdPolicy
from starr_engine.decoding.policies.threshold import ThresholdPolicy
from starr_engine.errors import RequestError
from tests.helpers.policy_views import unmasked, view

T, F = True, False


def decide(policy: RemaskingPolicy, look: BlockView) -> Decision:
    return policy.decide(look, {})[0]


def line(policy: RemaskingPolicy, look: BlockView) -> list[float]:
    signals = decide(policy, look).signals
    assert signals is not None
    return [round(value, 6) for value in signals["threshold"][0].tolist()]


def test_threshold_shows_its_line() -> None:
    assert line(ThresholdPolicy(threshold=0.5), view([0.1, 0.2])) == [0.5]


def test_a_first_mask_goes_alone_at_the_first_step_and_by_the_line_afterwards() -> None:
    policy = ThresholdPolicy(threshold=0.5, first_alone=True)
    masked = [F, T, T, T]
    assert unmasked(policy, view([1.0, 0.1, 0.9, 0.8], masked=masked)) == [1]
    assert unmasked(policy, view([1.0, 0.1, 0.9, 0.8], masked=masked, step=1)) == [2, 3]
    with pytest.raises(RequestError, match="first_alone must be True or False, got 1"):
        ThresholdPolicy(first_alone=1)  # type: ignore[arg-type]


def test_progress_threshold_falls_with_the_share_of_tokens() -> None:
    # 3 of 4 unmasked: .9 * (1 - .4 * .75) = .63.
    policy = ProgressThresholdPolicy(threshold=0.9, slope=0.4)
    look = view([1.0, 1.0, 1.0, 0.64], masked=[F, F, F, T], step=1)
    assert line(policy, look) == [0.63]
    assert unmasked(policy, look) == [3]
    assert unmasked(policy, view([1.0, 1.0, 1.0, 0.62], masked=[F, F, F, T], step=1)) == []


def test_progress_threshold_does_not_fall_at_the_first_step_of_a_block() -> None:
    # A block may begin with tokens that were given.
    look = view([1.0, 1.0, 1.0, 0.64], masked=[F, F, F, T], step=0)
    assert line(ProgressThresholdPolicy(threshold=0.9, slope=0.4), look) == [0.9]


def test_age_threshold_falls_by_the_step_down_to_its_end() -> None:
    # .8 at step 0, .8 - .4 / 4 a step, .4 from step 4 on.
    policy = AgeThresholdPolicy(threshold=0.8, end=0.4, num_steps=4)
    lines = [line(policy, view([0.1], step=step)) for step in (0, 1, 3, 4, 9)]
    assert lines == [[0.8], [0.7], [0.5], [0.4], [0.4]]
    assert unmasked(policy, view([0.6, 0.45], step=3)) == [0]


def test_local_leap_relaxes_around_anchors() -> None:
    # Anchor 2, radius 1: the line is .7 at 1, 2 and 3 only.
    policy = LocalLeapPolicy(threshold=0.9, relaxed=0.7, radius=1)
    look = view([0.8, 0.75, 0.95, 0.6, 0.8])
    assert line(policy, look) == [0.9, 0.7, 0.7, 0.7, 0.9]
    assert unmasked(policy, look) == [1, 2]
    wide = LocalLeapPolicy(threshold=0.9, relaxed=0.7, radius=100)
    assert unmasked(wide, look) == [0, 1, 2, 4]


def test_local_leap_without_an_anchor_is_the_threshold() -> None:
    policy = LocalLeapPolicy(threshold=0.9, relaxed=0.7, radius=4)
    assert unmasked(policy, view([0.8, 0.85])) == []
    # A token that stands already is no anchor.
    assert unmasked(policy, view([1.0, 0.85], masked=[F, T])) == []


def test_hierarchy_takes_the_best_of_every_run_and_whatever_is_sure() -> None:
    # Runs {0, 1, 2} and {4, 5}: best .7 at 1 and .8 at 4. Of the rest only .95 at 2 is sure.
    look = view([0.65, 0.7, 0.6, 1.0, 0.8, 0.7], masked=[T, T, T, F, T, T])
    assert unmasked(HierarchyPolicy(), look) == [1, 4]
    sure = view([0.93, 0.7, 0.95, 1.0, 0.8, 0.7], masked=[T, T, T, F, T, T])
    assert unmasked(HierarchyPolicy(), sure) == [0, 2, 4]
    assert line(HierarchyPolicy(), sure) == [0.92, 0.92, 0.62, 0.92, 0.62, 0.92]


def test_hierarchy_leaves_a_run_whose_best_is_too_low() -> None:
    look = view([0.62, 1.0, 0.63], masked=[T, F, T])
    assert unmasked(HierarchyPolicy(threshold=0.9, low=0.625), look) == [2]
    assert unmasked(HierarchyPolicy(), view([0.5, 0.6])) == []


def test_hierarchy_takes_the_leftmost_of_equals_in_a_run() -> None:
    assert unmasked(HierarchyPolicy(), view([0.5, 0.7, 0.7])) == [1]


def test_hierarchy_revokes_and_makes_up_for_it() -> None:
    # .3 and .2 fall below .4: two go back, three of the four masks come: the runs {2, 3} and
    # {5, 6} give .9 and .7, and .5 at 3 makes it three.
    policy = HierarchyPolicy(revoke_below=0.4)
    assert policy.scores_unmasked and not HierarchyPolicy().scores_unmasked
    look = view([0.3, 0.2, 0.9, 0.5, 0.8, 0.7, 0.1], masked=[F, F, T, T, F, T, T])
    decision = decide(policy, look)
    assert decision.revoke is not None
    assert decision.revoke.tolist() == [[T, T, F, F, F, F, F]]
    assert decision.unmask.tolist() == [[F, F, T, T, F, T, F]]


def test_hierarchy_revokes_no_more_than_it_can_make_up_for() -> None:
    # Two masks: only one token, the least probable, goes back, and both masks come.
    decision = decide(
        HierarchyPolicy(revoke_below=0.4), view([0.3, 0.2, 0.1, 0.5], masked=[F, F, T, T])
    )
    assert decision.revoke is not None
    assert decision.revoke.tolist() == [[F, T, F, F]]
    assert decision.unmask.tolist() == [[F, F, T, T]]
    decision = decide(HierarchyPolicy(revoke_below=0.4), view([0.3, 0.5], masked=[F, T]))
    assert decision.revoke is not None
    assert not decision.revoke.any()


@dataclass(frozen=True)
class Twin:
    policy: RemaskingPolicy
    static: float


@pytest.mark.parametrize(
    "twin",
    [
        Twin(ProgressThresholdPolicy(threshold=0.6, slope=0.0), 0.6),
        Twin(AgeThresholdPolicy(threshold=0.6, end=0.6), 0.6),
        Twin(LocalLeapPolicy(threshold=0.6, relaxed=0.6), 0.6),
        Twin(LocalLeapPolicy(threshold=0.6, relaxed=0.6, radius=0), 0.6),
    ],
)
def test_with_its_term_switched_off_each_is_the_static_threshold(twin: Twin) -> None:
    generator = torch.Generator().manual_seed(0)
    for step in range(40):
        confidence = (torch.randint(0, 11, (12,), generator=generator) / 10).tolist()
        masked = (torch.rand(12, generator=generator) < 0.7).tolist()
        look = view(confidence, masked=masked, step=step)
        assert unmasked(twin.policy, look) == unmasked(ThresholdPolicy(threshold=twin.static), look)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ProgressThresholdPolicy(slope=1.1), "slope must be a number in"),
        (lambda: AgeThresholdPolicy(end=0.9), "end must not exceed threshold: 0.9 > 0.85"),
        (lambda: AgeThresholdPolicy(num_steps=0), "num_steps must be an integer >= 1"),
        (lambda: LocalLeapPolicy(relaxed=0.95), "relaxed must not exceed threshold: 0.95 > 0.9"),
        (lambda: LocalLeapPolicy(radius=-1), "radius must be an integer >= 0"),
        (lambda: HierarchyPolicy(low=0.95), "low must not exceed threshold: 0.95 > 0.92"),
        (lambda: HierarchyPolicy(revoke_below=2), "revoke_below must be a number in"),
    ],
)
def test_arguments_out_of_range_are_refused(build: object, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        build()  # type: ignore[operator]
