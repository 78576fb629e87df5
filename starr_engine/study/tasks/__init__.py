"""The synthetic tasks: problems from a seed, and scorers for the answers.

Imports nothing from the rest of the package and needs neither torch nor a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from starr_engine.study.tasks.base import (
    JsonValue,
    Problem,
    Split,
    Task,
    make_problems,
    split_of,
)
from starr_engine.study.tasks.code import Code
from starr_engine.study.tasks.harder import (
    LongChains,
    LongSorting,
    RewordedCode,
    RewordedJson,
    RewordedProblems,
    RewordedSorting,
)
from starr_engine.study.tasks.json_extraction import JsonExtraction
from starr_engine.study.tasks.sorting import Sorting
from starr_engine.study.tasks.word_problems import Chains, WordProblems

TASKS: Final[Mapping[str, Task]] = MappingProxyType(
    {task.name: task for task in (WordProblems(), Chains(), Sorting(), Code(), JsonExtraction())}
)
"""The tasks that the shipped models were trained on, by their names."""

HARD_TASKS: Final[Mapping[str, Task]] = MappingProxyType(
    {
        task.name: task
        for task in (
            LongChains(),
            LongSorting(),
            RewordedProblems(),
            RewordedSorting(),
            RewordedCode(),
            RewordedJson(),
        )
    }
)
"""Longer and reworded tasks; the shipped models solve some of each, see docs/tasks.md."""

ALL_TASKS: Final[Mapping[str, Task]] = MappingProxyType({**TASKS, **HARD_TASKS})
"""Every task that makes its own problems."""

__all__ = [
    "ALL_TASKS",
    "HARD_TASKS",
    "TASKS",
    "JsonValue",
    "Problem",
    "Split",
    "Task",
    "make_problems",
    "split_of",
]
