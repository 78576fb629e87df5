"""What no setting beats, and reading a curve at a level."""

from __future__ import annotations

import pytest

from starr_engine.study.fronts import Point, cost_at, front, layers


def points(*pairs: tuple[float, float]) -> list[Point]:
    return [Point(cost=cost, level=level) for cost, level in pairs]


def test_the_front_holds_what_nothing_beats_by_rising_cost():
    some = points((5, 0.9), (3, 0.7), (4, 0.7), (6, 0.8), (9, 1.0))
    assert front(some) == [1, 0, 4]


def test_of_equal_points_the_first_stands_for_all():
    assert front(points((2, 0.5), (2, 0.5), (2, 0.4))) == [0]
    assert front([]) == []


def test_layers_count_the_fronts_before_a_point():
    some = points((1, 0.5), (2, 0.9), (2, 0.5), (3, 0.9), (4, 0.4))
    assert layers(some) == [0, 0, 1, 1, 2]


@pytest.mark.parametrize(
    ("level", "cost"),
    [
        (0.5, 2.0),  # at a point
        (0.75, 4.0),  # half way between two
        (1.0, 6.0),
        (0.2, 2.0),  # below all: no setting of the curve costs less
        (1.01, None),  # never reached
    ],
)
def test_a_curve_is_read_in_straight_lines_between_the_points_of_its_front(level, cost):
    curve = points((6, 1.0), (2, 0.5), (5, 0.4), (7, 0.9))
    assert cost_at(curve, level) == (None if cost is None else pytest.approx(cost))
