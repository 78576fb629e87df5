"""What a synthetic task is: problems made from a seed, and a scorer for answers.

Every problem belongs to exactly one split, decided by a hash of its prompt. The split
therefore does not depend on seeds, counts or the order of generation, and a prompt seen
while training can never turn up in a test.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, Protocol, TypeAlias

JsonValue: TypeAlias = "bool | int | float | str | Sequence[JsonValue] | JsonObject | None"
JsonObject: TypeAlias = "dict[str, JsonValue]"
Split = Literal["train", "test", "demo"]

_BUCKETS = 16  # of which one holds the test problems and one the shipped (demo) problems


@dataclass(frozen=True)
class Problem:
    """One problem, with all that is needed to score an answer to it."""

    id: str
    """Unique within a set of problems, such as ``sorting-2177fc6349eb``."""
    task: str
    """Name of the task in ``TASKS``."""
    prompt: str
    """Plain text exactly as a user would type it."""
    reference: str
    """An answer that is right; the model is trained to write it."""
    answer: JsonValue
    """What the scorer compares with; its form depends on the task."""

    def to_row(self) -> dict[str, JsonValue]:
        """Return the problem as one JSON object."""
        return asdict(self)


class Task(Protocol):
    """A family of problems."""

    name: str

    def generate(self, rng: random.Random) -> Problem:
        """Return one random problem; equal generator states give equal problems."""
        ...

    def score(self, problem: Problem, text: str) -> bool:
        """Return whether ``text`` solves ``problem``."""
        ...

    def score_many(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[bool]:
        """Score many answers; the same results as ``score`` one by one, but faster."""
        ...


def split_of(prompt: str) -> Split:
    """Return the only split that ``prompt`` may be used in."""
    bucket = hashlib.sha256(prompt.encode()).digest()[0] % _BUCKETS
    if bucket == 0:
        return "test"
    return "demo" if bucket == 1 else "train"


def problem_id(task: str, prompt: str) -> str:
    """Return a short stable id for a prompt of a task."""
    return f"{task}-{hashlib.sha256(prompt.encode()).hexdigest()[:12]}"


def make_problems(task: Task, split: Split, count: int, seed: int) -> list[Problem]:
    """Return ``count`` different problems of one split.

    Args:
        task: The family to draw from.
        split: Which split the prompts must belong to.
        count: How many problems.
        seed: Equal seeds give equal lists; a longer list starts with the shorter one.
    """
    rng = random.Random(f"{task.name}/{split}/{seed}")
    problems: dict[str, Problem] = {}
    while len(problems) < count:
        problem = task.generate(rng)
        if split_of(problem.prompt) == split:
            problems.setdefault(problem.prompt, problem)
    return list(problems.values())
