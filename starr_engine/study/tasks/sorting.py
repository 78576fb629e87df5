"""Lists of different numbers to be put in order."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Final

from starr_engine.study.tasks.base import Problem, problem_id

_RISING: Final = (
    "Sort these numbers from small to large: {}",
    "Put in rising order: {}",
    "Sort from lowest to highest: {}",
    "Write the numbers {} with the smallest first.",
    "Arrange {} in rising order.",
)
_FALLING: Final = (
    "Sort these numbers from large to small: {}",
    "Put in falling order: {}",
    "Sort from highest to lowest: {}",
    "Write the numbers {} with the largest first.",
    "Arrange {} in falling order.",
)
_LIST: Final = re.compile(r"\d+(?:, ?\d+)*")


class Sorting:
    """Different numbers from 0 to 99, rising or falling."""

    name = "sorting"
    rising: Sequence[str] = _RISING
    falling: Sequence[str] = _FALLING

    def __init__(self, shortest: int = 4, longest: int = 5) -> None:
        """Choose how many numbers a list has, from ``shortest`` to ``longest``."""
        self.shortest, self.longest = shortest, longest

    def generate(self, rng: random.Random) -> Problem:
        """Return one list to sort; ``answer`` is the sorted list."""
        numbers = rng.sample(range(100), rng.randint(self.shortest, self.longest))
        is_falling = rng.random() < 0.5
        ordered = sorted(numbers, reverse=is_falling)
        prompt = rng.choice(self.falling if is_falling else self.rising).format(_join(numbers))
        return Problem(problem_id(self.name, prompt), self.name, prompt, _join(ordered), ordered)

    def score(self, problem: Problem, text: str) -> bool:
        """Return whether the text is exactly the sorted list."""
        text = text.strip()
        if not _LIST.fullmatch(text):
            return False
        return [int(number) for number in text.split(",")] == problem.answer

    def score_many(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[bool]:
        """Score the answers one by one."""
        return [self.score(p, t) for p, t in zip(problems, texts, strict=True)]


def _join(numbers: Sequence[int]) -> str:
    return ", ".join(str(number) for number in numbers)
