"""Successive halving on made-up points."""

from __future__ import annotations

import pytest

from starr_engine.errors import ConfigError
from starr_engine.study.calibration.search import (
    Finalist,
    Rung,
    SearchPlan,
    best_of,
    choose,
    halve,
    planned_evaluations,
    ranked,
    rungs,
    search,
)
from starr_engine.study.calibration.spaces import Range
from starr_engine.study.fronts import Point

SPACE = {"x": Range(low=0.0, high=1.0), "y": Range(low=0.0, high=1.0)}


class Bench:
    """Costs 10x + y; reaches the level x, give or take nothing."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []
        self.seen: list[dict] = []

    def __call__(self, settings, num_prompts):
        self.calls.append((len(settings), num_prompts))
        self.seen += [dict(setting) for setting in settings]
        return [Point(cost=10 * each["x"] + each["y"], level=each["x"]) for each in settings]


def run(plan: SearchPlan, *, least: float = 0.6, num_prompts: int = 100, start=()):
    bench = Bench()
    found = search(
        SPACE, plan, least=least, num_prompts=num_prompts, measure=bench,
        check=lambda setting: None, start=start,
    )  # fmt: skip
    return found, bench


def test_the_schedule_triples_prompts_and_thirds_settings():
    plan = SearchPlan()
    schedule = [(rung.num_settings, rung.num_prompts) for rung in rungs(64, 100, plan)]
    # 72 of 100 prompts would be a rung for little, so the third rung has all.
    assert schedule == [(64, 8), (22, 24), (8, 100)]
    assert [each.num_prompts for each in rungs(64, 5, plan)] == [5]
    assert [each.num_settings for each in rungs(2, 100, plan)] == [2, 2, 2]
    assert [each.num_settings for each in rungs(9, 100, plan)] == [9, 4, 4]


def test_the_plan_counts_every_prompt_of_a_setting_once():
    plan = SearchPlan(num_settings=64, num_rounds=1)
    first = 64 * 8 + 22 * 16 + 8 * 76
    near = 16 * 8 + 6 * 16 + 4 * 76
    assert planned_evaluations(100, plan) == first + near


def test_a_search_follows_its_schedule_and_is_the_same_for_one_seed():
    plan = SearchPlan(num_settings=27, num_rounds=2, seed=5)
    found, bench = run(plan)
    assert bench.calls[:3] == [(27, 8), (9, 24), (4, 100)]
    assert len(bench.calls) == 9
    again, bench_again = run(plan)
    assert found == again
    assert bench.seen == bench_again.seen
    assert bench.seen != run(SearchPlan(num_settings=27, num_rounds=2, seed=6))[1].seen


def test_a_search_comes_close_to_the_best_setting():
    found, _ = run(SearchPlan(num_settings=64, num_rounds=3), least=0.6)
    chosen = choose(best_of(found), 0.6)
    assert chosen is not None
    assert chosen.point.level >= 0.6
    assert chosen.point.cost < 7.0  # the optimum is 6, the mean of the space 5.5 at level 0.5


def test_what_is_pinned_goes_through_all_rungs_whatever_it_does():
    bad = {"x": 0.0, "y": 1.0}
    found, _ = run(SearchPlan(num_settings=27, num_rounds=0), start=[bad])
    assert found[0].setting == bad


def test_without_rounds_only_the_first_draw_is_tried():
    found, bench = run(SearchPlan(num_settings=9, num_rounds=0))
    assert bench.calls == [(9, 8), (4, 24), (4, 100)]
    assert len(found) == 4


def test_settings_that_may_reach_the_level_go_first_then_fronts_then_cost():
    points = [
        Point(cost=1, level=0.1),  # cheap, hopeless
        Point(cost=9, level=1.0),
        Point(cost=5, level=0.95),
        Point(cost=6, level=0.9),  # beaten by the one before, but may still reach it
    ]
    assert ranked(points, least=0.95, num_prompts=20) == [2, 1, 3, 0]


def test_halving_hands_the_best_on():
    settings = [{"x": x / 10, "y": 0.0} for x in range(10)]
    bench = Bench()
    schedule = [Rung(num_settings=10, num_prompts=10), Rung(num_settings=2, num_prompts=100)]
    found = halve(settings, schedule, 0.8, bench)
    # 5 of 10 speaks against a level of 0.8 (interval up to 0.76), 6 of 10 does not (0.83).
    assert [each.setting["x"] for each in found] == [0.6, 0.7]


def finalist(cost: float, level: float, **setting: float) -> Finalist:
    return Finalist(setting=setting, point=Point(cost=cost, level=level))


def test_the_cheapest_that_reaches_the_level_is_chosen():
    some = [finalist(9, 1.0), finalist(5, 0.98, a=1), finalist(5, 0.99, a=2), finalist(3, 0.97)]
    best = best_of(some)
    assert best == [some[3], some[2], some[0]]
    assert choose(best, 0.98) == some[2]
    assert choose(best, 1.0) == some[0]
    assert choose(best, 0.97) == some[3]
    assert choose(best[:2], 0.995) is None


@pytest.mark.parametrize(
    "wrong",
    [{"num_settings": 0}, {"num_rounds": -1}, {"first_prompts": 0}, {"factor": 1}, {"spread": 0.0}],
)
def test_a_plan_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SearchPlan(**wrong)
