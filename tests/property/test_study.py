"""What holds for any grid and any numbers of a study."""

from __future__ import annotations

import json
import math
import shlex

from hypothesis import given, settings
from hypothesis import strategies as st

from starr_engine.cli.main import make_parser
from starr_engine.cli.study import grids_of
from starr_engine.study.grid.axes import Cell, Choice, TaskChoice
from starr_engine.study.grid.read import parse_choice
from starr_engine.study.grid.results import CellResult, compare_all
from starr_engine.study.grid.significance import holm, mcnemar
from starr_engine.study.report.analysis import (
    budget_curves,
    forwards,
    front_of,
    rows,
    split_speedups,
)
from starr_engine.study.report.settings import pool
from starr_engine.study.report.tables import cell_command
from tests.helpers.made_results import made_cell, made_result

WORDS = st.text(st.characters(codec="ascii", exclude_characters=",\n\r"), max_size=8)
VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | WORDS
ARGS = st.dictionaries(st.from_regex(r"[a-z_]{1,6}", fullmatch=True), VALUES, max_size=3)


@given(args=ARGS)
def test_a_choice_is_read_back_as_it_is_shown(args):
    choice = Choice(name="own", args=args)
    again = parse_choice(str(choice))
    assert again == choice
    assert [type(each) for each in again.args.values()] == [type(each) for each in args.values()]


@given(
    threshold=st.floats(0, 1), batch=st.integers(1, 64), seed=st.integers(0, 10**6),
    block=st.none() | st.integers(1, 64), length=st.none() | st.integers(1, 64),
    shots=st.integers(0, 5), count=st.integers(1, 500),
    sampling=st.fixed_dictionaries({}, optional={"temperature": st.floats(0, 2),
                                                 "ignore_eos": st.booleans()}),
)  # fmt: skip
@settings(deadline=None)
def test_a_cells_command_is_that_cell(
    threshold, batch, seed, block, length, shots, count, sampling
):
    cell = Cell(
        model="a model", task=TaskChoice(name="sorting"),
        cache=Choice(name="dual", args={"refresh": "never"}),
        remasking=Choice(name="threshold", args={"threshold": threshold}), block_length=block,
        max_tokens=length, batch_size=batch, seed=seed, shots=shots, num_problems=count,
        engine={"canvas_cache": 0, "prefix_caching": False, "device": "cpu"}, sampling=sampling,
    )  # fmt: skip
    words = shlex.split(cell_command(cell))[1:]
    [grid] = grids_of(make_parser("study").parse_args(words))
    assert [each.id for each in grid.cells()] == [cell.id]


SOLVED = st.text("01", min_size=4, max_size=4)
FORWARDS = st.tuples(*[st.integers(1, 64)] * 4)
SECONDS = st.floats(0.01, 100)


@st.composite
def studies(draw) -> list[CellResult]:
    """Three caches with three policies; some cells may lack numbers."""
    results = []
    for cache in ("none", "dual", "prefix"):
        for policy in ("low_confidence", "starr", "wino"):
            cell = made_cell(cache, policy)
            if cache != "none" and draw(st.integers(0, 5)) == 0:
                results.append(made_result(cell, error="no"))
                continue
            numbers = {"solved": draw(SOLVED), "forwards": draw(FORWARDS),
                       "wall_s": draw(SECONDS), "rows": draw(st.floats(1, 1e4))}  # fmt: skip
            results.append(made_result(cell, **numbers))
    return compare_all(results)


@given(results=studies())
@settings(max_examples=25, deadline=None)
def test_results_are_read_back_as_they_are_written(results):
    for each in results:
        assert CellResult.from_plain(json.loads(each.to_line())) == each


@given(results=studies())
@settings(max_examples=25, deadline=None)
def test_shares_multiply_and_fronts_are_not_beaten(results):
    [condition] = pool(results)
    for each in split_speedups(condition):
        assert math.isclose(each.total, each.cache * each.remasking * each.interaction)
    for cost in (forwards, rows):
        best = front_of(condition.settings, cost)
        for each in condition.settings:
            assert any(
                one.accuracy >= each.accuracy and cost(one) <= cost(each) for one in best
            )  # fmt: skip
            assert each in best or not all(
                each.accuracy > one.accuracy or cost(each) < cost(one) for one in best
            )


@given(results=studies())
@settings(max_examples=25, deadline=None)
def test_a_larger_group_reaches_no_less_under_any_budget(results):
    [condition] = pool(results)
    [everything] = budget_curves(condition, forwards, lambda each: "all")
    for each in budget_curves(condition, forwards, lambda each: each.cache.name):
        assert -1e-12 <= each.area <= everything.area + 1e-12
    assert everything.area <= max(each.accuracy for each in condition.settings) + 1e-12


@given(results=studies(), data=st.data())
@settings(max_examples=20, deadline=None)
def test_the_order_in_which_cells_finish_changes_no_comparison(results, data):
    shuffled = data.draw(st.permutations(results))
    by_id = {each.cell.id: each for each in compare_all(shuffled)}
    assert [by_id[each.cell.id] for each in results] == results


@given(p_values=st.lists(st.floats(0, 1), max_size=12))
def test_holm_keeps_the_order_and_makes_nothing_smaller(p_values):
    adjusted = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert [adjusted[at] for at in order] == sorted(adjusted)


@given(gained=st.integers(0, 400), lost=st.integers(0, 400))
def test_mcnemar_is_even_handed_and_a_probability(gained, lost):
    p_value = mcnemar(gained, lost)
    assert 0.0 < p_value <= 1.0
    assert p_value == mcnemar(lost, gained)
    if gained >= lost:
        assert mcnemar(gained + 1, lost) <= p_value
