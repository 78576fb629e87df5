"""Intervals against published numbers."""

from __future__ import annotations

import math

import pytest

from starr_engine.study.intervals import mean, mean_interval, wilson_interval


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [
        # R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_intervals_are_the_published_ones(successes, count, low, high):
    found = wilson_interval(successes / count, count)
    assert found == pytest.approx((low, high), abs=5e-5)


def test_a_wilson_interval_is_mirrored_and_closed_at_the_ends():
    low, high = wilson_interval(0.9, 40)
    assert wilson_interval(0.1, 40) == pytest.approx((1 - high, 1 - low))
    assert wilson_interval(1.0, 20)[1] == 1.0
    assert wilson_interval(0.0, 20)[0] == 0.0


def test_an_interval_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one observation"):
        wilson_interval(0.5, 0)


def test_the_interval_of_a_mean_uses_the_sample_deviation():
    # Values 1, 2, 3, 4: mean 2.5, sample deviation sqrt(5/3).
    half = 1.959963984540054 * math.sqrt(5 / 3) / 2
    assert mean_interval([1, 2, 3, 4]) == pytest.approx((2.5 - half, 2.5 + half))
    assert mean_interval([7.0]) == (7.0, 7.0)


def test_a_mean_is_summed_exactly():
    assert mean([0.1] * 10) == 0.1
    assert mean([]) == 0.0
