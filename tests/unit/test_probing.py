"""Which steps are probed, what a probe measures, and how probes add up."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from starr_engine import CacheDrift, RequestError, SamplingParams
from starr_engine.engine.probing import ProbeTally, is_probed, row_errors

MASK = 3


def steps(rate: float, seed: int = 0, count: int = 4000) -> list[int]:
    params = SamplingParams(cache_probe_rate=rate, seed=seed)
    return [step for step in range(count) if is_probed(params, step)]


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
@pytest.mark.parametrize("rate", [0.01, 0.3, 0.9])
def test_about_the_asked_share_of_steps_is_probed(rate: float, seed: int) -> None:
    deviation = math.sqrt(rate * (1 - rate) / 4000)
    assert abs(len(steps(rate, seed)) / 4000 - rate) < 4 * deviation


def test_no_step_and_every_step() -> None:
    assert steps(0.0) == []
    assert steps(1.0) == list(range(4000))
    assert steps(1) == list(range(4000))


def test_a_higher_rate_probes_more_steps_and_another_seed_others() -> None:
    assert set(steps(0.2)) < set(steps(0.4))
    assert steps(0.2, seed=1) != steps(0.2, seed=2)
    # The choice is part of what a seed means: it must never change.
    assert steps(0.1, count=44) == [1, 18, 25, 27, 43]


@pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan, math.inf, True, "0.5", None])
def test_a_rate_outside_its_range_is_refused(rate: object) -> None:
    with pytest.raises(RequestError, match=r"cache_probe_rate must be a number in \[0, 1\]"):
        SamplingParams(cache_probe_rate=rate)  # type: ignore[arg-type]


def test_errors_are_those_of_a_plain_softmax_without_the_mask() -> None:
    rng = np.random.default_rng(0)
    cached, full = rng.normal(size=(2, 5, 11)) * 4
    full[0] = cached[0]
    full[0, MASK] = 50.0  # of no account
    errors = row_errors(torch.from_numpy(cached), torch.from_numpy(full), MASK).numpy()
    for row in range(5):
        p, q = (np.exp(np.delete(logits[row], MASK)) for logits in (full, cached))
        p, q = p / p.sum(), q / q.sum()
        expected = [(p * np.log(p / q)).sum(), p.argmax() != q.argmax(), abs(p.max() - q.max())]
        np.testing.assert_allclose(errors[row], expected, rtol=1e-9, atol=1e-12)
    assert errors[0].tolist() == [0.0, 0.0, 0.0]
    assert errors[:, 1].sum() >= 2


def test_what_the_full_forward_rules_out_adds_nothing_to_the_divergence() -> None:
    full = torch.tensor([[0.0, -torch.inf, 0.0, 9.0]])
    cached = torch.tensor([[0.0, 0.0, 0.0, 9.0]])
    [[divergence, flip, gap]] = row_errors(cached, full, MASK).tolist()
    assert divergence == pytest.approx(math.log(1.5))
    assert (flip, gap) == (0.0, pytest.approx(1 / 6))
    # The other way round, something possible was ruled out.
    assert row_errors(full, cached, MASK)[0, 0] == torch.inf


def test_rows_that_are_no_finite_numbers_are_not_counted() -> None:
    full = torch.zeros(3, 5)
    cached = torch.zeros(3, 5)
    cached[0], full[1] = torch.nan, -torch.inf
    tally = ProbeTally()
    tally.add(row_errors(cached, full, MASK).numpy())
    assert tally.report() == CacheDrift(
        probe_forwards=1, rows_compared=1, flip_rate=0.0, mean_kl=0.0, max_kl=0.0,
        mean_confidence_error=0.0, max_confidence_error=0.0,
    )  # fmt: skip


def test_a_tally_has_means_over_rows_and_largest_values() -> None:
    first, second, both = ProbeTally(), ProbeTally(), ProbeTally()
    first.add(np.array([[0.5, 1.0, 0.25]]))
    second.add(np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.5]]))
    second.add(np.empty((0, 3)))
    for tally in (first, second):
        both.include(tally)
    assert dataclasses.astuple(both.report()) == (3, 3, 1 / 3, 0.5, 1.0, 0.25, 0.5)
    assert both.report() == CacheDrift(
        probe_forwards=3, rows_compared=3, flip_rate=1 / 3, mean_kl=0.5, max_kl=1.0,
        mean_confidence_error=0.25, max_confidence_error=0.5,
    )  # fmt: skip
    assert ProbeTally().report() == CacheDrift()
