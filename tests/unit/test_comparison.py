"""Forwards at equal agreement, in pairs."""

from __future__ import annotations

import pytest

from starr_engine.study.comparison import Measured, compare


def measured(cost: list[float], level: list[float]) -> Measured:
    return Measured(cost=cost, level=level)


def test_the_saving_is_read_from_the_rivals_curve_at_the_same_level():
    rival = [measured([4, 4], [0, 1]), measured([8, 8], [1, 1])]
    ours = measured([3, 3], [0.5, 1])  # level 0.75: the rival needs 6 forwards there
    found = compare(ours, rival, resamples=0)
    assert (found.level, found.cost, found.curve_cost) == (0.75, 3.0, 6.0)
    assert found.fewer == pytest.approx(0.5)


def test_a_setting_of_the_curve_saves_nothing_against_it():
    curve = [measured([2, 4, 2], [0, 0.5, 0]), measured([5, 6, 7], [1, 1, 1])]
    found = compare(curve[1], curve, resamples=200)
    assert found.fewer == 0.0
    assert found.fewer_interval == (0.0, 0.0)
    assert found.reached == 1.0


def test_a_level_that_the_curve_never_reaches_is_not_compared():
    found = compare(measured([3, 3], [1, 1]), [measured([2, 2], [0, 0])], resamples=50)
    assert (found.curve_cost, found.fewer, found.fewer_interval) == (None, None, None)
    assert found.reached == 0.0


def test_pairing_takes_out_what_problems_have_in_common():
    # Problems differ a hundredfold in their cost, the saving is one half on each of them.
    costs = [float(10 ** (at % 3)) for at in range(60)]
    ours = measured(costs, [1.0] * 60)
    rival = [measured([2 * cost for cost in costs], [1.0] * 60)]
    assert compare(ours, rival, resamples=200).fewer_interval == pytest.approx((0.5, 0.5))


def test_equal_seeds_give_equal_intervals():
    ours = measured([float(at % 5) for at in range(40)], [float(at % 2) for at in range(40)])
    curve = [measured([4.0] * 40, [0.0] * 40), measured([8.0] * 40, [1.0] * 40)]
    first, second = compare(ours, curve, seed=3), compare(ours, curve, seed=3)
    assert first == second
    assert first.fewer_interval != compare(ours, curve, seed=4).fewer_interval
