"""Small Python functions, scored by running them on test inputs."""

from __future__ import annotations

import operator
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from starr_engine.study.tasks.base import JsonValue, Problem, problem_id
from starr_engine.study.tasks.sandbox import Job, run_jobs
from starr_engine.study.tasks.words import FUNCTIONS, LISTS, SCALARS

_MATH: Final = (
    ("plus", "+", operator.add),
    ("minus", "-", operator.sub),
    ("times", "*", operator.mul),
)
_COMPARE: Final = (
    ("greater than", ">", operator.gt),
    ("less than", "<", operator.lt),
    ("equal to", "==", operator.eq),
    ("not equal to", "!=", operator.ne),
    ("at least", ">=", operator.ge),
    ("at most", "<=", operator.le),
)
_PICK: Final = (("largest", "max"), ("smallest", "min"))
_OPENINGS: Final = ("Write a function {}", "Define a Python function {}", "Code a function {}")


@dataclass(frozen=True)
class _Spec:
    """One function: what the prompt says, its source, and what it must compute."""

    text: str
    source: str
    expected: Callable[..., Any]
    takes_list: bool
    arity: int = 1
    constants: tuple[int, ...] = ()


class Code:
    """Functions of numbers and lists: formulas, branches, loops and filters."""

    name = "code"
    openings: Sequence[str] = _OPENINGS

    def generate(self, rng: random.Random) -> Problem:
        """Return one specification; ``answer`` holds the name and the test cases."""
        function = rng.choice(FUNCTIONS)
        spec = rng.choice(_SPECS)(rng, function)
        prompt = f"{rng.choice(self.openings).format(function)} {spec.text}"
        cases = [[list(args), spec.expected(*args)] for args in _inputs(rng, spec)]
        answer: JsonValue = {"function": function, "cases": cast(JsonValue, cases)}
        return Problem(problem_id(self.name, prompt), self.name, prompt, spec.source, answer)

    def score(self, problem: Problem, text: str) -> bool:
        """Return whether the function gives the expected value for every test input."""
        return self.score_many([problem], [text])[0]

    def score_many(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[bool]:
        """Run all candidate functions in a few restricted child processes."""
        jobs = []
        for problem, text in zip(problems, texts, strict=True):
            answer = cast(dict[str, Any], problem.answer)
            jobs.append(Job(text, answer["function"], [case[0] for case in answer["cases"]]))
        verdicts = []
        for problem, result in zip(problems, run_jobs(jobs), strict=True):
            expected = [case[1] for case in cast(dict[str, Any], problem.answer)["cases"]]
            verdicts.append(result is not None and repr(result) == repr(expected))
        return verdicts


def _inputs(rng: random.Random, spec: _Spec) -> list[tuple[Any, ...]]:
    """Return argument tuples that lie on both sides of each constant of the function."""
    near = [c + d for c in spec.constants for d in (-1, 0, 1)] or [0, 1, 5]
    if spec.takes_list:
        mixed = near + [rng.randint(0, 60) for _ in range(3)]
        rng.shuffle(mixed)
        return [(mixed,), (near,), ([rng.randint(0, 60) for _ in range(4)],)]
    values = [*near, 0, rng.randint(20, 99)]
    return [tuple(rng.choice(values) if i else v for i in range(spec.arity)) for v in values]


def _define(function: str, arguments: str, *lines: str) -> str:
    return "\n".join([f"def {function}({arguments}):", *("    " + line for line in lines)])


def _formula(rng: random.Random, function: str) -> _Spec:
    x, factor, offset = rng.choice(SCALARS), rng.randint(2, 20), rng.randint(2, 50)
    word, sign, apply = rng.choice(_MATH[:2])
    return _Spec(
        f"of {x} that returns {x} times {factor} {word} {offset}.",
        _define(function, x, f"return {x} * {factor} {sign} {offset}"),
        lambda v: apply(v * factor, offset),
        takes_list=False,
    )


def _two_arguments(rng: random.Random, function: str) -> _Spec:
    x, y = rng.sample(SCALARS, 2)
    (word, sign, apply), (word2, sign2, apply2) = rng.choice(_MATH), rng.choice(_MATH[:2])
    number = rng.randint(2, 50)
    return _Spec(
        f"of {x} and {y} that returns {x} {word} {y} {word2} {number}.",
        _define(function, f"{x}, {y}", f"return {x} {sign} {y} {sign2} {number}"),
        lambda v, w: apply2(apply(v, w), number),
        takes_list=False,
        arity=2,
    )


def _branch(rng: random.Random, function: str) -> _Spec:
    x, (word, sign, test) = rng.choice(SCALARS), rng.choice(_COMPARE)
    limit, yes, no = rng.sample(range(2, 60), 3)
    return _Spec(
        f"of {x} that returns {yes} if {x} is {word} {limit} and {no} otherwise.",
        _define(function, x, f"if {x} {sign} {limit}:", f"    return {yes}", f"return {no}"),
        lambda v: yes if test(v, limit) else no,
        takes_list=False,
        constants=(limit,),
    )


def _pick(rng: random.Random, function: str) -> _Spec:
    xs, (word, name) = rng.choice(LISTS), rng.choice(_PICK)
    (math, sign, apply), number = rng.choice(_MATH), rng.randint(2, 50)
    choose = max if name == "max" else min
    return _Spec(
        f"of the list {xs} that returns the {word} item {math} {number}.",
        _define(function, xs, f"return {name}({xs}) {sign} {number}"),
        lambda v: apply(choose(v), number),
        takes_list=True,
    )


def _map(rng: random.Random, function: str) -> _Spec:
    xs, (word, sign, apply), number = rng.choice(LISTS), rng.choice(_MATH), rng.randint(2, 50)
    return _Spec(
        f"of the list {xs} that returns each item {word} {number}.",
        _define(function, xs, f"return [v {sign} {number} for v in {xs}]"),
        lambda v: [apply(item, number) for item in v],
        takes_list=True,
    )


def _filter(rng: random.Random, function: str) -> _Spec:
    xs, (word, sign, test), number = rng.choice(LISTS), rng.choice(_COMPARE), rng.randint(2, 50)
    return _Spec(
        f"of the list {xs} that returns the items {word} {number}.",
        _define(function, xs, f"return [v for v in {xs} if v {sign} {number}]"),
        lambda v: [item for item in v if test(item, number)],
        takes_list=True,
        constants=(number,),
    )


def _loop(rng: random.Random, function: str) -> _Spec:
    xs, (word, sign, test), number = rng.choice(LISTS), rng.choice(_COMPARE), rng.randint(2, 50)
    counting = rng.random() < 0.5
    goal = "counts the items" if counting else "adds the items"
    return _Spec(
        f"of the list {xs} that {goal} {word} {number}.",
        _define(
            function,
            xs,
            "total = 0",
            f"for v in {xs}:",
            f"    if v {sign} {number}:",
            f"        total += {'1' if counting else 'v'}",
            "return total",
        ),
        lambda v: sum(1 if counting else item for item in v if test(item, number)),
        takes_list=True,
        constants=(number,),
    )


def _collect(rng: random.Random, function: str) -> _Spec:
    xs, (word, sign, test), limit = rng.choice(LISTS), rng.choice(_COMPARE), rng.randint(2, 50)
    (math, math_sign, apply), number = rng.choice(_MATH), rng.randint(2, 50)
    return _Spec(
        f"of the list {xs} that takes the items {word} {limit} and returns them {math} {number}.",
        _define(
            function,
            xs,
            "out = []",
            f"for v in {xs}:",
            f"    if v {sign} {limit}:",
            f"        out.append(v {math_sign} {number})",
            "return out",
        ),
        lambda v: [apply(item, number) for item in v if test(item, limit)],
        takes_list=True,
        constants=(limit,),
    )


_SPECS: Final[tuple[Callable[[random.Random, str], _Spec], ...]] = (
    _formula,
    _two_arguments,
    _branch,
    _pick,
    _map,
    _filter,
    _loop,
    _collect,
)
