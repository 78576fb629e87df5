"""What a recommendation follows from: intervals, limits, rounds, candidates and the choice."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starr_engine.cache.base import CACHE_POLICIES
from starr_engine.decoding.base import REMASKING_POLICIES
from starr_engine.errors import ConfigError
from starr_engine.study.grid.results import CellResult
from starr_engine.study.grid.significance import difference_interval
from starr_engine.study.intervals import Z_95
from starr_engine.study.recommend.candidates import (
    BASELINE,
    ModelTraits,
    candidates_for,
    parse_candidates,
)
from starr_engine.study.recommend.choose import recommend
from starr_engine.study.recommend.goal import Goal, prompts_to_be_sure
from starr_engine.study.recommend.rounds import BaselineFailedError, rounds
from starr_engine.study.recommend.text import as_text, why_nothing_fits
from tests.helpers.made_results import made_cell
from tests.helpers.made_searches import (
    ALL,
    DEFAULT,
    LOSS,
    OTHERS,
    candidate,
    made_search,
    names,
    recommended,
    results_of,
)


@pytest.mark.parametrize(
    ("gained", "lost", "count"), [(3, 7, 54), (12, 2, 54), (0, 5, 30), (1, 0, 8), (0, 0, 40)]
)
def test_the_interval_of_a_difference_is_where_its_score_test_turns(gained, lost, count):
    def statistic(difference: float) -> float:
        """With the likeliest share of losses found by trying."""
        low, high = max(0.0, -difference), (1 - difference) / 2
        shares = [low + (high - low) * (at + 0.5) / 20_000 for at in range(20_000)]

        def likelihood(share: float) -> float:
            pairs = ((gained, share + difference), (lost, share),
                     (count - gained - lost, 1 - 2 * share - difference))  # fmt: skip
            return sum(times * math.log(max(p, 1e-300)) for times, p in pairs if times)

        best = max(shares, key=likelihood)
        variance = count * (2 * best + difference * (1 - difference))
        return abs(gained - lost - count * difference) / math.sqrt(variance)

    low, high = difference_interval(gained, lost, count)
    assert statistic(low) == pytest.approx(Z_95, rel=2e-3)
    assert statistic(high) == pytest.approx(Z_95, rel=2e-3)
    assert difference_interval(lost, gained, count) == pytest.approx((-high, -low))


def test_no_lost_prompt_is_no_proof_of_no_loss():
    low, high = difference_interval(0, 0, 40)
    assert (low, high) == pytest.approx((-0.0876, 0.0876), abs=1e-4)
    with pytest.raises(ValueError, match="at least one problem"):
        difference_interval(0, 0, 0)


def test_the_fastest_setting_within_the_limit_is_chosen():
    lossy = {"wall_s": 0.1, "solved": "00111110"}
    found = recommended({DEFAULT: {"wall_s": 2.0}, OTHERS[0]: {}, OTHERS[1]: lossy})
    assert found.chosen is not None and str(found.chosen.candidate) == OTHERS[0]
    assert (found.chosen.faster, found.chosen.loss) == (8.0, 0.0)
    assert found.nearest is not None and str(found.nearest.candidate) == OTHERS[1]
    assert found.nearest.margin.value == pytest.approx(0.1 - 2 / 8)
    assert found.as_fast == ()


def test_of_settings_as_fast_the_more_accurate_is_chosen_then_the_default_then_the_exact():
    better = {"wall_s": 1.05, "solved": "11111111"}
    found = recommended({DEFAULT: {"wall_s": 1.04}, OTHERS[0]: {}, OTHERS[1]: better})
    assert found.chosen is not None and str(found.chosen.candidate) == OTHERS[1]
    assert names(found.as_fast) == [DEFAULT, OTHERS[0]]
    found = recommended({OTHERS[0]: {}, DEFAULT: {"wall_s": 1.09}})
    assert found.chosen is not None and found.chosen is found.default
    found = recommended({OTHERS[0]: {"label": "approximate: x"}, OTHERS[1]: {"wall_s": 1.09}})
    assert found.chosen is not None and str(found.chosen.candidate) == OTHERS[1]
    found = recommended({OTHERS[0]: {}, DEFAULT: {"wall_s": 1.11}})  # a gain that one run can tell
    assert found.chosen is not None and str(found.chosen.candidate) == OTHERS[0]


def test_nothing_is_recommended_that_is_slower_than_the_baseline_or_outside_the_limit():
    slow = recommended({DEFAULT: {"wall_s": 9.0}})
    assert slow.chosen is None and slow.nearest is None
    assert "and is faster than the baseline" in why_nothing_fits(slow)
    worse = {"solved": "00000000"}, {"solved": "00111110"}
    lossy = recommended({DEFAULT: worse[0], OTHERS[0]: worse[1]})
    assert lossy.chosen is None
    assert why_nothing_fits(lossy).endswith("below the baseline's; nearest is dual, threshold")
    failed = recommended({DEFAULT: {"error": "no memory"}})
    assert why_nothing_fits(failed).endswith("none could run")
    assert "not run: dual, starr: no memory" in as_text(failed)
    unreached = recommended({DEFAULT: {}}, Goal(objective="latency", least_accuracy=0.95))
    assert unreached.chosen is None
    assert "The baseline itself has 87.5 %" in " ".join(as_text(unreached).split())


def test_certainty_asks_for_the_whole_interval():
    sure = replace(LOSS, needs_certainty=True)
    few = recommended({DEFAULT: {}}, sure, count=8)
    assert few.chosen is None and few.nearest is not None
    assert few.nearest.margin.standing == "within"
    assert "measure more prompts" in " ".join(as_text(few).split())
    needed = prompts_to_be_sure(few.nearest, sure, few.judged.z)
    # No loss among n: the interval ends at z^2 / (n + z^2).
    square = few.judged.z**2
    assert needed == math.ceil(square / 0.1 - square)
    many = recommended({DEFAULT: {}}, sure, count=needed)
    assert many.chosen is not None and many.chosen.margin.standing == "surely within"
    assert recommended({DEFAULT: {}}, sure, count=needed - 1).chosen is None


def test_intervals_widen_with_the_number_of_settings_that_are_looked_at():
    alone = recommended({DEFAULT: {}}).judged
    among = recommended({name: {} for name in (DEFAULT, *OTHERS)}).judged
    assert (alone.z, among.z) == pytest.approx((Z_95, 2.5758), abs=1e-4)
    assert among.verdicts[0].loss_interval[1] > alone.verdicts[0].loss_interval[1]


def test_a_goal_has_one_limit_that_is_a_share():
    for limits in ({}, {"most_loss": 0.1, "least_accuracy": 0.5}, {"most_loss": 2.0}):
        with pytest.raises(ConfigError):
            Goal(objective="latency", **limits)
    assert Goal(objective="latency", most_loss=0.1).of_agreement().least_accuracy == 0.9


def test_the_promising_settings_go_on_and_the_default_with_them():
    search = made_search(num_prompts=24)
    assert [each.num_problems for each in search.cells()] == [8] * 6
    numbers = {
        DEFAULT: {"wall_s": 7.0, "solved": "00000000"},  # as bad as can be
        OTHERS[0]: {"wall_s": 1.0},
        OTHERS[1]: {"wall_s": 3.0, "solved": "11111111"},
        OTHERS[2]: {"error": "refused"},
        OTHERS[3]: {"wall_s": 4.0},
    }
    first = results_of(search, numbers, 8)
    second = rounds(search, first)[1]
    assert set(map(str, second.candidates)) == {DEFAULT, OTHERS[0], OTHERS[1], OTHERS[3]}
    assert (second.num_prompts, second.is_last) == (24, True)
    asked = search.more_cells(first)
    assert [cell.num_problems for cell, _ in asked] == [24] * 5
    assert {baseline.id for _, baseline in asked} == {search.cell(BASELINE, 24).id}
    # A part of the round asks for the same round again.
    assert search.more_cells(first[:-1]) == [
        (cell, search.baseline_of(cell)) for cell in search.cells()
    ]


def test_only_so_many_settings_go_on():
    many = tuple(candidate(f"dual, {name}") for name in REMASKING_POLICIES.names()[:12])
    search = made_search(candidates=many, default=many[-1], num_prompts=100)
    numbers = {str(each): {"wall_s": 1.0 + at} for at, each in enumerate(many)}
    kept = rounds(search, results_of(search, numbers, 8))[1].candidates
    assert kept == (*many[:4], many[-1])


def test_a_search_whose_baseline_fails_says_why():
    search = made_search()
    results = results_of(search, {str(each): {} for each in ALL}, 8)
    broken = [replace(results[0], measured=None, error="no memory"), *results[1:]]
    with pytest.raises(BaselineFailedError, match=r"none, low_confidence\) could not run: no mem"):
        rounds(search, broken)


@pytest.mark.parametrize(("budget_s", "expected"), [(13.0, 8), (53.0, 26), (113.0, 66)])
def test_a_budget_decides_on_how_many_prompts(budget_s, expected):
    # The first round takes 13 s; a prompt of a further one 1 s in the baseline, 1/8 s in others.
    search = made_search(num_prompts=200, budget_s=budget_s)
    results: list[CellResult] = []
    made = rounds(search, results)
    while True:
        numbers = {str(each): {} for each in made[-1].candidates}
        results += results_of(search, numbers, made[-1].num_prompts)
        if len(rounds(search, results)) == len(made):
            break
        made = rounds(search, results)
    assert made[-1].num_prompts == expected
    # 1.5 s a prompt: the baseline and four settings, and the default among them.
    spent = 13 + sum(1.5 * each.num_prompts for each in made[1:])
    assert spent <= budget_s


@settings(max_examples=50, deadline=None)
@given(
    limit=st.integers(1, 60), batch=st.integers(1, 20),
    times=st.lists(st.floats(0.1, 20.0), min_size=5, max_size=5),
    solved=st.lists(st.integers(0, 255), min_size=5, max_size=5),
)  # fmt: skip
def test_every_search_ends_with_all_its_prompts_and_within_its_limit(limit, batch, times, solved):
    search = made_search(num_prompts=limit, template=made_cell(batch_size=batch))
    results: list[CellResult] = []
    asked = rounds(search, results)
    while True:
        count = asked[-1].num_prompts
        numbers = {
            str(each): {"wall_s": times[at], "solved": (f"{solved[at]:08b}" * 8)[:count]}
            for at, each in enumerate(search.candidates)
            if str(each) in map(str, asked[-1].candidates)
        }
        results += results_of(search, numbers, count)
        again = rounds(search, results)
        if len(again) == len(asked):
            break
        asked = again
    assert asked[-1].num_prompts == limit and asked[-1].is_last
    found = recommend(search, results)
    assert found == recommend(search, results[::-1])
    if found.chosen is not None:
        assert found.chosen.loss <= 0.1 + 1e-9 and found.chosen.faster > 1
        assert all(each.candidate in asked[-1].candidates for each in found.judged.verdicts)
    as_text(found)


@pytest.mark.parametrize("mask_block", [None, 4, 1])
def test_the_built_in_list_is_what_the_model_takes(mask_block):
    traits = ModelTraits(mask_block=mask_block)
    listed = candidates_for(traits)
    assert listed[0] == traits.default and BASELINE not in listed
    assert len({str(each) for each in listed}) == len(listed) >= 10
    for each in listed:
        policy = CACHE_POLICIES.create(each.cache.name, each.cache.args)
        assert policy.refusal(mask_block) == ""
        REMASKING_POLICIES.create(each.remasking.name, each.remasking.args)
    exact = candidates_for(replace(traits, exact_only=True))
    assert all(
        CACHE_POLICIES.create(each.cache.name, each.cache.args).label(mask_block) == "exact"
        for each in exact
        if each != traits.default
    )
    assert not any(
        each.cache.name == "dllm" for each in candidates_for(replace(traits, num_ranks=2))
    )


@pytest.mark.parametrize(
    ("pair", "problem"),
    [
        (("dual", "treshold"), "did you mean 'threshold'"),
        (("duel", "starr"), "did you mean 'dual'"),
        (("dual:size=3", "starr"), "'size'"),
        (("block_causal", "starr"), "does not take that cache"),
    ],
)
def test_a_wrong_candidate_is_refused_before_a_model_is_loaded(pair, problem):
    with pytest.raises(ConfigError, match=problem):
        parse_candidates([pair], ModelTraits())
