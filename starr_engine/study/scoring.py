"""Answers judged by the task that their row names: of a batch job's output, or in a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from starr_engine.errors import ConfigError
from starr_engine.registry import unknown_name
from starr_engine.study.published import PUBLISHED, CodeLimits, published_tasks
from starr_engine.study.tasks import ALL_TASKS, Problem

SCORED_TASKS: Final = (*ALL_TASKS, *PUBLISHED)
"""Every task whose answers can be judged."""

_NEEDED: Final = ("id", "task", "answer")


class Scorer(Protocol):
    """The part of a task that judges."""

    def score(self, problem: Problem, text: str) -> bool:
        """Whether ``text`` solves ``problem``."""
        ...

    def score_many(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[bool]:
        """Judge many answers."""
        ...


def scorer_of(task: str, code: CodeLimits | None = None) -> Scorer:
    """What judges the answers to a task.

    Args:
        task: A name in ``SCORED_TASKS``.
        code: What the programs of HumanEval and MBPP may use; None runs none, and their scorers
            raise ConfigError. The built-in tasks of code need no leave: what they run is checked
            against a short list of syntax and names before.

    Raises:
        ConfigError: If there is no such task.
    """
    if task in ALL_TASKS:
        return ALL_TASKS[task]
    published = published_tasks(code)
    if task not in published:
        raise ConfigError(unknown_name("task", task, list(SCORED_TASKS)))
    return published[task]


def is_problem(columns: Mapping[str, Any]) -> bool:
    """Whether a row of a file is a problem of a known task; see :func:`problem_of`."""
    has_all = all(columns.get(name) is not None for name in _NEEDED)
    return has_all and columns["task"] in SCORED_TASKS


def problem_of(columns: Mapping[str, Any], where: str) -> Problem:
    """The problem that a row of a file is.

    Args:
        columns: ``id``, ``task``, ``answer`` and, where they are known, ``prompt`` and
            ``reference``, which no scorer needs.
        where: What messages call the row.

    Raises:
        ConfigError: If one is missing, or there is no such task.
    """
    missing = [name for name in _NEEDED if columns.get(name) is None]
    if missing:
        raise ConfigError(
            f"{where} is no problem: it has no {', '.join(missing)}; `starr-engine problems` "
            "writes rows that are"
        )
    if columns["task"] not in SCORED_TASKS:
        raise ConfigError(f"{where}: {unknown_name('task', columns['task'], list(SCORED_TASKS))}")
    return Problem(
        id=str(columns["id"]),
        task=columns["task"],
        prompt=columns.get("prompt") or "",
        reference=str(columns.get("reference") or ""),
        answer=columns["answer"],
    )


def score_rows(
    rows: Sequence[Mapping[str, Any]], source: str, code: CodeLimits | None = None
) -> list[bool]:
    """Whether each row of a batch job's output is right; one that has failed is wrong.

    Raises:
        ConfigError: If a row is no problem or has no ``text``; or see ``scorer_of``.
    """
    problems, texts = [], []
    for at, row in enumerate(rows):
        problems.append(problem_of(row, f"row {at} of {source}"))
        if row.get("text") is None and row.get("error") is None:
            raise ConfigError(f"row {at} of {source} has no text: score what a batch job wrote")
        texts.append(row.get("text") or "")
    solved = [False] * len(problems)
    for task in dict.fromkeys(problem.task for problem in problems):
        mine = [at for at, problem in enumerate(problems) if problem.task == task]
        verdicts = scorer_of(task, code).score_many(
            [problems[at] for at in mine], [texts[at] for at in mine]
        )
        for at, is_right in zip(mine, verdicts, strict=True):
            solved[at] = is_right and rows[at].get("error") is None
    return solved
