"""The problems that studies and calibration run on; one line adds a set."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from starr_engine.study.tasks import ALL_TASKS, TASKS, Problem, Split, make_problems

SHIPPED_PROBLEMS: Final = Path(__file__).parents[1] / "assets" / "problems.jsonl"
"""Problems of all tasks from the split ``demo``, as files of prompts are written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemSet:
    """Problems of one task, and how they are decoded."""

    task: str
    """A name in ``ALL_TASKS``."""

    max_tokens: int
    block_length: int
    """In tables; of bidirectional models."""

    def problems(self, split: Split, count: int, seed: int) -> list[Problem]:
        """``count`` different problems; the splits share none. See ``make_problems``."""
        return make_problems(ALL_TASKS[self.task], split, count, seed)


PROBLEM_SETS: Final[Mapping[str, ProblemSet]] = MappingProxyType(
    {name: ProblemSet(task=name, max_tokens=64, block_length=32) for name in ALL_TASKS}
)
"""Every set by its name."""

TRAINED_SETS: Final = tuple(TASKS)
"""Those of the tasks that the shipped models were trained on."""


def set_rows(name: str, split: Split, count: int, seed: int) -> list[dict[str, object]]:
    """The problems of a set as rows of a batch job, with the set's length.

    The block length is left to the flags and to the model: block-causal ones have their own.

    Args:
        name: A name in ``PROBLEM_SETS``.
        split: See ``make_problems``, as for ``count`` and ``seed``.
        count: How many.
        seed: Equal seeds give equal rows.
    """
    each = PROBLEM_SETS[name]
    decoding = {"max_tokens": each.max_tokens}
    return [{**problem.to_row(), **decoding} for problem in each.problems(split, count, seed)]


def shipped_rows() -> list[dict[str, object]]:
    """The problems that ship with the package, the tasks in turns, each as its set is decoded."""
    rows = [json.loads(line) for line in SHIPPED_PROBLEMS.read_text().splitlines()]
    return [{**row, **_decoding(row["task"])} for row in rows]


def _decoding(task: str) -> dict[str, int]:
    each = next(each for each in PROBLEM_SETS.values() if each.task == task)
    return {"max_tokens": each.max_tokens}
