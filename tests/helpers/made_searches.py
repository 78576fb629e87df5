"""Searches for a setting whose results are given, not measured."""

from __future__ import annotations

from starr_engine.study.grid.axes import Choice
from starr_engine.study.grid.results import CellResult, compare_all
from starr_engine.study.recommend.candidates import (
    BASELINE,
    Candidate,
)
from starr_engine.study.recommend.choose import Recommendation, recommend
from starr_engine.study.recommend.goal import Goal
from starr_engine.study.recommend.rounds import Search
from tests.helpers.made_results import made_cell, made_result

LOSS = Goal(objective="throughput", most_loss=0.1)


def candidate(name: str) -> Candidate:
    """From ``dual, starr``."""
    cache, remasking = name.split(", ")
    return Candidate(cache=Choice(name=cache), remasking=Choice(name=remasking))


DEFAULT = "dual, starr"
OTHERS = ("dual, threshold", "dual, factor", "dual, klass", "dual, frechet")
ALL = tuple(map(candidate, (DEFAULT, *OTHERS)))


def made_search(goal: Goal = LOSS, **changes) -> Search:
    base = {"template": made_cell(), "goal": goal, "candidates": ALL, "default": ALL[0],
            "num_prompts": 8}  # fmt: skip
    return Search(**(base | changes))


def results_of(search: Search, numbers: dict[str, dict], count: int) -> list[CellResult]:
    """One round with given numbers; the baseline takes 8 s and solves all but the last prompt."""
    base = {
        "solved": "1" * (count - 1) + "0",
        "wall_s": 8.0,
        "latency_s": 8.0,
        "forwards": (40,) * count,
    }
    baseline = search.cell(BASELINE, count)
    made = [made_result(baseline, baseline, **base)]
    for each in search.candidates:
        if (own := numbers.get(str(each))) is not None:
            given = {"solved": base["solved"], "forwards": (4,) * count, "wall_s": 1.0} | own
            cell = search.cell(each, count)
            made.append(made_result(cell, baseline, **(own if "error" in own else given)))
    return compare_all(made)


def recommended(
    numbers: dict[str, dict], goal: Goal = LOSS, count: int = 8, **changes
) -> Recommendation:
    candidates = tuple(map(candidate, numbers))
    search = made_search(goal, num_prompts=count, **({"candidates": candidates} | changes))
    return recommend(search, results_of(search, numbers, count))


def names(verdicts) -> list[str]:
    return [str(each.candidate) for each in verdicts]
