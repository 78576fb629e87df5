"""The synthetic tasks: what is right, what is wrong, and what must never run."""

from __future__ import annotations

import json
import random
import time

import pytest

from starr_engine.study.tasks import ALL_TASKS as TASKS
from starr_engine.study.tasks import Problem, make_problems, split_of
from starr_engine.study.tasks.sandbox import Job, refusal, run_jobs

ALL_TASKS = pytest.mark.parametrize("name", sorted(TASKS))


def one_argument(source: str) -> Job:
    return Job(source, "f", [[3]])


@ALL_TASKS
def test_the_reference_answers_are_right(name: str) -> None:
    problems = make_problems(TASKS[name], "train", 200, seed=3)
    assert all(TASKS[name].score_many(problems, [p.reference for p in problems]))


@ALL_TASKS
def test_another_problems_answer_is_wrong(name: str) -> None:
    problems = make_problems(TASKS[name], "train", 60, seed=4)
    shifted = [p.reference for p in problems[1:] + problems[:1]]
    solved = sum(TASKS[name].score_many(problems, shifted))
    assert solved <= 4, "two problems may share an answer by chance, but hardly more"


@ALL_TASKS
@pytest.mark.parametrize("text", ["", " ", "{", "12", "Answer:", "def f(:", "\x00", "[" * 5000])
def test_nonsense_is_wrong_and_raises_nothing(name: str, text: str) -> None:
    problem = make_problems(TASKS[name], "train", 1, seed=0)[0]
    assert not TASKS[name].score(problem, text)


@ALL_TASKS
def test_equal_seeds_give_equal_problems_and_longer_lists_continue_shorter_ones(name: str) -> None:
    short, long = (make_problems(TASKS[name], "demo", n, seed=1) for n in (10, 30))
    assert long[:10] == short
    assert make_problems(TASKS[name], "demo", 10, seed=2) != short


@ALL_TASKS
def test_splits_share_no_prompt(name: str) -> None:
    prompts = {
        split: {p.prompt for p in make_problems(TASKS[name], split, 200, seed=0)}
        for split in ("train", "test", "demo")
    }
    assert not prompts["train"] & prompts["test"]
    assert not prompts["train"] & prompts["demo"]
    assert not prompts["test"] & prompts["demo"]
    assert all(split_of(prompt) == "test" for prompt in prompts["test"])


@ALL_TASKS
def test_a_problem_survives_json(name: str) -> None:
    problem = make_problems(TASKS[name], "train", 1, seed=9)[0]
    row = json.loads(json.dumps(problem.to_row()))
    assert TASKS[name].score(Problem(**row), problem.reference)


def test_sorting_accepts_only_the_whole_list_in_order() -> None:
    problem = Problem("1", "sorting", "", "1, 2, 30", [1, 2, 30])
    score = TASKS["sorting"].score
    assert score(problem, "1, 2, 30\n")
    wrong = ["1, 30, 2", "1, 2", "1, 2, 30, 30", "1 2 30", "1, 2, 30.", "x"]
    assert not any(score(problem, text) for text in wrong)


def test_word_problems_count_the_last_marked_number() -> None:
    problem = Problem("1", "word_problems", "", "", 14)
    score = TASKS["word_problems"].score
    assert score(problem, "19 - 5 = 14\nAnswer: 14")
    assert score(problem, "Answer: 13\nAnswer: 14")
    assert not score(problem, "Answer: 14\nAnswer: 13")
    assert not score(problem, "14")


def test_json_compares_values_not_texts() -> None:
    problem = Problem("1", "json_extraction", "", "", {"a": 1, "b": True})
    score = TASKS["json_extraction"].score
    assert score(problem, '{"b":true,  "a":1}')
    wrong = ['{"a": 1}', '{"a": 1, "b": 1}', '{"a": true, "b": true}', '{"a": 1, "b": true', "[]"]
    assert not any(score(problem, text) for text in wrong)


def test_code_may_differ_from_the_reference_if_it_computes_the_same() -> None:
    answer = {"function": "f", "cases": [[[3], 7], [[0], 1]]}
    problem = Problem("1", "code", "", "", answer)
    score = TASKS["code"].score
    assert score(problem, "def f(x):\n    return x + x + 1")
    assert not score(problem, "def f(x):\n    return x + 4")
    assert not score(problem, "def g(x):\n    return x * 2 + 1")
    assert not score(problem, "def f(x):\n    return float(x * 2 + 1)")


@pytest.mark.parametrize(
    "source",
    [
        "import os\ndef f(x):\n    return 1",
        "def f(x):\n    import os",
        "def f(x):\n    return ().__class__",
        "def f(x):\n    return __import__('os')",
        "def f(x):\n    return x.real",
        "def f(x):\n    global y",
        "def f(x):\n    return (lambda: 1)()",
        "def f(x):\n    return f'{x}'",
        "@print\ndef f(x):\n    return 1",
        "def f(x):\n    return 1\nf(3)",
        "async def f(x):\n    return 1",
        "def f(x):\n    try:\n        return 1\n    except ValueError:\n        return 2",
        "def f(x):\n    return 1" + " + 1" * 3000,
    ],
)
def test_what_is_not_on_the_whitelist_is_refused(source: str) -> None:
    assert refusal(source, "f") is not None
    assert run_jobs([one_argument(source)]) == [None]


@pytest.mark.parametrize(
    "source",
    [
        "def f(x):\n    return open('x')",  # not among the builtins
        "def f(x):\n    return [0] * 10 ** 10",  # memory
        "def f(x):\n    return f(x)",  # recursion
        "def f(x):\n    return 1 // 0",
        "def f(x):\n    return f",  # no JSON value
        "def f(x):\n    return [x] * 100000",  # a reply larger than the pipe
    ],
)
def test_a_function_that_fails_costs_only_its_own_result(source: str) -> None:
    good = one_argument("def f(x):\n    return x + 1")
    assert run_jobs([good, one_argument(source), good]) == [[4], None, [4]]


def test_endless_functions_are_stopped_and_the_rest_go_on() -> None:
    loop = one_argument("def f(x):\n    while True:\n        pass")
    power = one_argument("def f(x):\n    return 9 ** 9 ** 9")  # one long call inside C
    good = one_argument("def f(x):\n    return [v for v in range(x)]")
    started = time.monotonic()
    assert run_jobs([loop, good, power, good]) == [None, [[0, 1, 2]], None, [[0, 1, 2]]]
    assert time.monotonic() - started < 10


def test_generation_leaves_the_global_generator_alone() -> None:
    random.seed(1)
    expected = random.random()
    random.seed(1)
    make_problems(TASKS["code"], "train", 5, seed=0)
    assert random.random() == expected
