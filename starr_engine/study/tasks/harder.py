"""Tasks past the edge of what the shipped models were trained on: longer, or in other words.

Words and answers are of the forms that the models know, so that an answer can be right; how often
it is says how far a model carries, and leaves a remasking policy something to win or lose.
"""

from __future__ import annotations

import random
import re
from typing import Final

from starr_engine.study.tasks.base import Problem
from starr_engine.study.tasks.code import Code
from starr_engine.study.tasks.json_extraction import JsonExtraction
from starr_engine.study.tasks.sorting import Sorting
from starr_engine.study.tasks.word_problems import (
    Chains,
    WordProblems,
    comparison,
    events,
    make_problem,
)
from starr_engine.study.tasks.words import NAMES, THINGS

_NEXT_CHANGE: Final = re.compile(r"\. (?:Then|Later|Next|After that) \w+ ")
_QUESTION: Final = re.compile(
    r"How many (\w+) (?:does (\w+) have now|are left for (\w+)|do they have together)\?"
)


class LongChains(Chains):
    """Chains as long as the longest of training, or one change longer."""

    name = "long_chains"

    def generate(self, rng: random.Random) -> Problem:
        """Return one story with its steps; ``answer`` is the final number."""
        return make_problem(self.name, *events(rng, (4, 5), (5, 6)))


class LongSorting(Sorting):
    """Lists of five numbers, the most that the trained task has, or of six."""

    name = "long_sorting"

    def __init__(self) -> None:
        super().__init__(5, 6)


class RewordedProblems(WordProblems):
    """Word problems with joined sentences, more to ignore and another question."""

    name = "reworded_problems"

    def generate(self, rng: random.Random) -> Problem:
        """Return one story with its steps; ``answer`` is the final number."""
        story, steps, total = comparison(rng) if rng.random() < 0.25 else events(rng, (2,), (2, 3))
        return make_problem(self.name, _retell(rng, story), steps, total)


class RewordedSorting(Sorting):
    """The lists of the trained task under other requests."""

    name = "reworded_sorting"
    rising = (
        "Put the numbers {} in rising order.",
        "Put in order from small to large: {}",
        "Arrange from lowest to highest: {}",
    )
    falling = (
        "Put the numbers {} in falling order.",
        "Put in order from large to small: {}",
        "Arrange from highest to lowest: {}",
    )


class RewordedCode(Code):
    """The functions of the trained task under other requests."""

    name = "reworded_code"
    openings = ("Write {}, a function", "Write {}, a Python function", "Code for {}, a function")


class RewordedJson(JsonExtraction):
    """The sentences of the trained task under other requests."""

    name = "reworded_json"
    requests = (
        "The data of this as JSON: {}",
        "Write as JSON the data of this: {}",
        "{} Write this as JSON.",
    )


def _retell(rng: random.Random, story: str) -> str:
    """Change one to three things about the wording of a story and none about its numbers."""
    edits = [_join, _distract, _ask] if _NEXT_CHANGE.search(story) else [_distract, _ask]
    for edit in rng.sample(edits, min(len(edits), rng.choice((1, 1, 2, 3)))):
        story = edit(rng, story)
    return story


def _join(rng: random.Random, story: str) -> str:
    """Later changes follow in the sentence of the first."""
    return _NEXT_CHANGE.sub(" and ", story)


def _distract(rng: random.Random, story: str) -> str:
    """Somebody else owns something, which comes right before the question."""
    name = rng.choice([name for name in NAMES if name not in story])
    aside = f"{name} has {rng.randint(2, 40)} old {rng.choice(THINGS)}. How many "
    return story.replace("How many ", aside)


def _ask(rng: random.Random, story: str) -> str:
    """The same question in other words."""

    def other(match: re.Match[str]) -> str:
        thing, who = match[1], match[2] or match[3]
        return f"How many {thing} has {who} now?" if who else f"How many {thing} have they?"

    return _QUESTION.sub(other, story)
