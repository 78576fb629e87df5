"""factor, frechet and eb_sampler: how many of the best go, against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from starr_engine.decoding.policies.eb_sampler import EbSamplerPolicy
from starr_engine.decoding.policies.factor import FactorPolicy
from starr_engine.decoding.policies.frechet import FrechetPolicy
from starr_engine.errors import RequestError
from tests.helpers.policy_views import unmasked, view


def signal(policy: FactorPolicy | FrechetPolicy, confidence: list[float]) -> torch.Tensor:
    decision, _ = policy.decide(view(confidence), {})
    assert decision.signals is not None
    return decision.signals["threshold"]


def test_factor_asks_more_of_every_further_token() -> None:
    # Sorted .95, .9, .8, .7: 2 * .05 = .1, 3 * .1 = .3, 4 * .2 = .8, 5 * .3 = 1.5.
    look = view([0.8, 0.95, 0.7, 0.9])
    assert unmasked(FactorPolicy(factor=1.0), look) == [0, 1, 3]
    assert unmasked(FactorPolicy(factor=0.75), look) == [1, 3]
    assert unmasked(FactorPolicy(factor=0.2), look) == [1]
    assert unmasked(FactorPolicy(factor=0.05), look) == []
    assert unmasked(FactorPolicy(factor=2.0), look) == [0, 1, 2, 3]


def test_factor_takes_no_last_token_that_fails() -> None:
    # .75 and .5: 2 * .25 = .5, 3 * .5 = 1.5. The loop of the authors' code would take both.
    assert unmasked(FactorPolicy(factor=1.0), view([0.75, 0.5])) == [0]


def test_factor_counts_equal_confidences_from_the_left() -> None:
    # .75 three times: .5, .75, 1.
    assert unmasked(FactorPolicy(factor=0.75), view([0.75, 0.75, 0.75])) == [0, 1]


def test_factor_shows_the_threshold_of_every_rank() -> None:
    # Ranks 3, 1, 2 and factor 1: 1 - 1/4, 1 - 1/2, 1 - 1/3.
    torch.testing.assert_close(
        signal(FactorPolicy(), [0.1, 0.9, 0.5]), torch.tensor([[0.75, 0.5, 2 / 3]])
    )


def test_frechet_sums_what_the_better_ones_leave() -> None:
    # Sorted 1, .9, .8: G = 2*1 - 1 = 1; 1 + 1.8 - 2 = .8; 1.9 + 1.6 - 3 = .5; the fourth, .6:
    # 2.7 + 1.2 - 4 = -.1.
    look = view([0.8, 1.0, 0.6, 0.9])
    assert unmasked(FrechetPolicy(delta=0.25), look) == [0, 1, 3]
    assert unmasked(FrechetPolicy(delta=0.7), look) == [1, 3]
    assert unmasked(FrechetPolicy(delta=0.9), look) == [1]
    assert unmasked(FrechetPolicy(delta=1.0), look) == []


def test_frechet_takes_more_than_factor_when_the_first_are_surer_than_the_last() -> None:
    # 1, 1, .75: factor 4 * .25 = 1 > .75; G = 2 + 1.5 - 3 = .5 > .25.
    look = view([1.0, 1.0, 0.75])
    assert unmasked(FactorPolicy(factor=0.75), look) == [0, 1]
    assert unmasked(FrechetPolicy(delta=0.25), look) == [0, 1, 2]


def test_frechet_is_factor_for_equal_confidences() -> None:
    # (n + 1) * (1 - c) < 1 - delta: .125 * (n + 1) < .75 for n = 1 ... 4, at 5 both sides agree.
    look = view([0.875] * 8)
    assert unmasked(FrechetPolicy(delta=0.25), look) == [0, 1, 2, 3]
    assert unmasked(FactorPolicy(factor=0.74), look) == [0, 1, 2, 3]


def test_frechet_shows_the_threshold_of_every_rank() -> None:
    # delta .25: (.25 + 1) / 2, then (.25 + 2 - 1) / 2, then (.25 + 3 - 1.5) / 2.
    torch.testing.assert_close(
        signal(FrechetPolicy(), [0.5, 1.0, 0.1]), torch.tensor([[0.625, 0.625, 0.875]])
    )


def test_eb_sampler_bounds_the_entropy_that_the_largest_does_not_cover() -> None:
    # Ascending .05, .1, .2, .9: sums less the largest are 0, .05, .15, .35.
    look = view([0.5] * 4, entropy=[0.9, 0.05, 0.2, 0.1])
    assert unmasked(EbSamplerPolicy(), look) == [1, 3]
    assert unmasked(EbSamplerPolicy(gamma=0.2), look) == [1, 2, 3]
    assert unmasked(EbSamplerPolicy(gamma=0.4), look) == [0, 1, 2, 3]
    assert unmasked(EbSamplerPolicy(gamma=0.0), look) == [1]


def test_eb_sampler_keeps_its_bound_in_another_order() -> None:
    # By confidence 0, 2, 1 with entropies .3, .05, .2: 0, .35 - .3 = .05, .55 - .3 = .25.
    look = view([0.9, 0.5, 0.7], top2=[0.8, 0.0, 0.1], entropy=[0.3, 0.2, 0.05])
    assert unmasked(EbSamplerPolicy(order_by="confidence"), look) == [0, 2]
    # By margin 2 (.6), 1 (.5), 0 (.1): 0, .25 - .2 = .05, .55 - .3 = .25.
    assert unmasked(EbSamplerPolicy(order_by="margin"), look) == [1, 2]


def test_tokens_that_stand_are_not_counted() -> None:
    look = view([1.0, 0.7, 1.0], masked=[False, True, False], entropy=[0.0, 1.5, 0.0])
    assert unmasked(EbSamplerPolicy(), look) == [1]
    assert unmasked(FactorPolicy(), look) == [1]
    assert unmasked(FrechetPolicy(), look) == [1]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FactorPolicy(factor=-1), "factor must be a finite number >= 0"),
        (lambda: FrechetPolicy(delta=1.5), "delta must be a number in"),
        (lambda: EbSamplerPolicy(gamma=float("inf")), "gamma must be a finite number >= 0"),
        (lambda: EbSamplerPolicy(order_by="x"), "order_by must be one of confidence, margin, ent"),
    ],
)
def test_arguments_out_of_range_are_refused(build: object, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        build()  # type: ignore[operator]
