"""The harder tasks are harder in the way they say, and new to the shipped models."""

from __future__ import annotations

import re

import pytest

from starr_engine.study.problem_sets import PROBLEM_SETS, TRAINED_SETS
from starr_engine.study.tasks import ALL_TASKS, HARD_TASKS, TASKS, make_problems

COUNT = 200


def prompts(name: str) -> list[str]:
    return [problem.prompt for problem in make_problems(ALL_TASKS[name], "test", COUNT, 0)]


def openings(name: str) -> set[tuple[str, ...]]:
    """What no number or name fills: the first two words of each prompt."""
    return {tuple(re.findall(r"[A-Za-z_]+|:", prompt)[:2]) for prompt in prompts(name)}


def test_there_are_sets_of_all_tasks_and_the_trained_ones_are_known() -> None:
    assert set(PROBLEM_SETS) == set(TASKS) | set(HARD_TASKS) == set(ALL_TASKS)
    assert set(TRAINED_SETS) == set(TASKS)
    assert not set(TASKS) & set(HARD_TASKS)


def test_long_chains_are_the_longest_of_training_or_one_longer() -> None:
    def lengths(name: str) -> set[tuple[bool, int]]:
        found = make_problems(ALL_TASKS[name], "test", COUNT, 0)
        return {("*" in p.reference, p.reference.count("\n") - 1) for p in found}

    assert lengths("chains") == {(True, 3), (True, 4), (False, 4), (False, 5)}
    assert lengths("long_chains") == {(True, 4), (True, 5), (False, 5), (False, 6)}


def test_long_lists_have_five_or_six_numbers() -> None:
    found = make_problems(HARD_TASKS["long_sorting"], "test", COUNT, 0)
    assert {len(problem.reference.split(", ")) for problem in found} == {5, 6}


@pytest.mark.parametrize(
    ("harder", "trained"),
    [("reworded_sorting", "sorting"), ("reworded_code", "code")],
)
def test_reworded_requests_are_none_of_training(harder: str, trained: str) -> None:
    numbers = re.compile(r"\d+")
    known = {numbers.sub("0", prompt) for prompt in prompts(trained)}
    assert not known & {numbers.sub("0", prompt) for prompt in prompts(harder)}


def test_reworded_json_asks_in_other_words() -> None:
    known = ("Write as JSON: ", "Turn into JSON: ", "JSON for this: ")
    for prompt in prompts("reworded_json"):
        assert not prompt.startswith(known)
        assert not prompt.endswith("As JSON:")


def test_reworded_stories_differ_from_every_story_of_training() -> None:
    story = re.compile(r" and | has \d+ old | has \w+ now\?| have they\?")
    assert not any(story.search(prompt) for prompt in prompts("word_problems"))
    assert all(story.search(prompt) for prompt in prompts("reworded_problems"))


def test_a_retold_story_keeps_its_numbers_and_its_question() -> None:
    for problem in make_problems(HARD_TASKS["reworded_problems"], "test", COUNT, 0):
        given = set(re.findall(r"\d+", problem.prompt))
        used = set(re.findall(r"\d+", problem.reference))
        results = set(re.findall(r"= (\d+)", problem.reference))
        assert used - results <= given
        assert problem.prompt.count("How many ") == 1 and problem.prompt.endswith("?")
