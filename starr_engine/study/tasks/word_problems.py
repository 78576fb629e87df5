"""Word problems answered with worked steps: of two to four steps, and chains of five or six."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Final

from starr_engine.study.tasks.base import Problem, problem_id
from starr_engine.study.tasks.words import NAMES, THINGS

MAX_TOTAL: Final = 60
"""Largest intermediate result, so that the table of facts stays learnable."""
MAX_CHANGE: Final = 12
"""Largest number that one event adds or takes away."""

GAINS: Final = ("buys", "finds", "gets", "wins", "makes")
LOSSES: Final = ("sells", "loses", "drops", "breaks")
_CONTAINERS: Final = ("bags", "boxes", "jars", "trays")
_THEN: Final = ("Then", "Later", "Next", "After that")
_ANSWER: Final = re.compile(r"Answer: (\d+)")


class WordProblems:
    """Stories about things that are bought, lost, given away or compared."""

    name = "word_problems"

    def generate(self, rng: random.Random) -> Problem:
        """Return one story with its steps; ``answer`` is the final number."""
        told = comparison(rng) if rng.random() < 0.25 else events(rng, (1, 2), (2, 2, 3))
        return make_problem(self.name, *told)

    def score(self, problem: Problem, text: str) -> bool:
        """Return whether the last number marked as the answer is right."""
        marked = _ANSWER.findall(text)
        return bool(marked) and int(marked[-1]) == problem.answer

    def score_many(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[bool]:
        """Score the answers one by one."""
        return [self.score(p, t) for p, t in zip(problems, texts, strict=True)]


class Chains(WordProblems):
    """Stories of three to five changes, each step of which needs the result before it.

    A model that unmasks a whole chain at once guesses: what tells remasking policies apart.
    """

    name = "chains"

    def generate(self, rng: random.Random) -> Problem:
        """Return one story with its steps; ``answer`` is the final number."""
        return make_problem(self.name, *events(rng, (3, 4), (4, 5)))


def make_problem(task: str, prompt: str, steps: Sequence[str], answer: int) -> Problem:
    """A story with its worked steps and the marked answer."""
    reference = "\n".join([*steps, f"Answer: {answer}"])
    return Problem(problem_id(task, prompt), task, prompt, reference, answer)


def events(
    rng: random.Random, after_boxes: Sequence[int], after_total: Sequence[int]
) -> tuple[str, list[str], int]:
    """Return a story in which one person's things change.

    Args:
        rng: Source of all choices.
        after_boxes: Numbers of changes to choose from when the story starts with a product.
        after_total: Likewise when it starts with a number.
    """
    who, other = rng.sample(NAMES, 2)
    thing = rng.choice(THINGS)
    if rng.random() < 0.35:
        boxes, each = rng.randint(2, 6), rng.randint(2, 9)
        total = boxes * each
        story = [f"{who} has {boxes} {rng.choice(_CONTAINERS)} with {each} {thing} each."]
        steps = [f"Start: {boxes} * {each} = {total} {thing}"]
        changes = rng.choice(after_boxes)
    else:
        total = rng.randint(5, 40)
        story = [f"{who} has {total} {thing}."]
        steps = [f"Start: {total} {thing}"]
        changes = rng.choice(after_total)
    if rng.random() < 0.25:  # a sentence that must be ignored
        story.append(f"{other} is {rng.randint(2, MAX_TOTAL)} years old.")
    for index in range(changes):
        gain = rng.random() < 0.5
        if gain and total > MAX_TOTAL - MAX_CHANGE:
            gain = False
        if not gain and total <= MAX_CHANGE:
            gain = True
        change = rng.randint(2, MAX_CHANGE)
        opening = who if index == 0 else f"{rng.choice(_THEN)} {who}"
        if gain:
            verb = rng.choice(GAINS)
            story.append(f"{opening} {verb} {change} more.")
        elif rng.random() < 0.5:
            verb = "gives"
            story.append(f"{opening} gives {change} to {other}.")
        else:
            verb = rng.choice(LOSSES)
            story.append(f"{opening} {verb} {change}.")
        result = total + change if gain else total - change
        steps.append(f"{verb} {change}: {total} {'+' if gain else '-'} {change} = {result}")
        total = result
    question = rng.choice(
        (f"How many {thing} does {who} have now?", f"How many {thing} are left for {who}?")
    )
    return " ".join([*story, question]), steps, total


def comparison(rng: random.Random) -> tuple[str, list[str], int]:
    """Return a story that compares two people and asks for the sum."""
    who, other = rng.sample(NAMES, 2)
    thing = rng.choice(THINGS)
    difference = rng.randint(2, 8)
    more = rng.random() < 0.5
    first = rng.randint(3, 18) if more else rng.randint(10, 22)
    second = first + difference if more else first - difference
    story = (
        f"{who} has {first} {thing}. {other} has {difference} {'more' if more else 'fewer'} "
        f"than {who}. How many {thing} do they have together?"
    )
    steps = [
        f"{who}: {first} {thing}",
        f"{other}: {first} {'+' if more else '-'} {difference} = {second}",
        f"together: {first} + {second} = {first + second}",
    ]
    return story, steps, first + second
