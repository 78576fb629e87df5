"""What a published benchmark is here: rows to problems, prompts as papers ask, and a scorer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from starr_engine.errors import ConfigError
from starr_engine.study.published.rows import Row, read_rows
from starr_engine.study.tasks.base import JsonValue, Problem

Style = Literal["completion", "chat"]
"""``completion``: as base models are asked; ``chat``: one user message for instruct models."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One row, understood."""

    id: str
    question: str
    """What a template takes: a question, or the start of a program."""

    solution: str
    """The published solution, as an example shows it."""

    answer: JsonValue
    """What the scorer compares with."""


class PublishedTask(Protocol):
    """A benchmark whose problems come from its published files."""

    name: str

    shots: int
    """Solved examples in front of a prompt, unless asked otherwise; see docs/tasks.md."""

    max_tokens: int

    def items(self, rows: Sequence[Row], where: str) -> list[Item]:
        """The rows that are problems or examples, understood.

        Raises:
            ConfigError: If a row lacks a field.
        """
        ...

    def choose(self, items: Sequence[Item]) -> tuple[list[Item], list[Item]]:
        """Examples and problems of one file, where it holds both; else no examples."""
        ...

    def ask(self, item: Item, style: Style) -> str:
        """The prompt of one problem, up to where the model's answer starts."""
        ...

    def show(self, item: Item, style: Style) -> str:
        """The prompt of an example and its solution."""
        ...

    def score(self, problem: Problem, text: str) -> bool:
        """Whether ``text`` solves ``problem``."""
        ...

    def score_many(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[bool]:
        """Score many answers."""
        ...


def read_problems(
    task: PublishedTask,
    path: Path,
    *,
    shots: int | None = None,
    examples: Path | None = None,
    style: Style = "completion",
) -> list[Problem]:
    """The problems of a published file, with their prompts.

    Args:
        task: Which benchmark the file is.
        path: See ``read_rows``.
        shots: Solved examples in front of each prompt; None is the task's own number.
        examples: A file to take the first ``shots`` examples from, such as the training split;
            not needed where ``path`` holds them (MBPP).
        style: How the model is asked.

    Raises:
        ConfigError: If a file cannot be read or lacks a field, has no problem, or there are fewer
            examples than ``shots``.
    """
    shown, items = task.choose(task.items(read_rows(path), str(path)))
    if examples is not None:
        shown = task.items(read_rows(examples), str(examples))
    count = task.shots if shots is None else shots
    if count < 0:
        raise ConfigError(f"shots must be at least 0, got {count}")
    if len(shown) < count:
        raise ConfigError(
            f"{task.name} is asked with {count} examples and there are {len(shown)}: give a file "
            "of examples, such as the training split, or fewer shots"
        )
    if not items:
        raise ConfigError(f"{path} has no problem of {task.name}")
    front = "".join(f"{task.show(item, style)}\n\n" for item in shown[:count])
    return [
        Problem(
            f"{task.name}-{item.id}",
            task.name,
            front + task.ask(item, style),
            item.solution,
            item.answer,
        )
        for item in items
    ]


def before(text: str, *ends: str) -> str:
    """The text up to the first of ``ends``: a base model goes on with the next example."""
    found = [at for at in map(text.find, ends) if at >= 0]
    return text[: min(found, default=len(text))]
