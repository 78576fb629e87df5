"""Readers for GSM8K, MATH, HumanEval and MBPP, from the files that their authors publish."""

from __future__ import annotations

from collections.abc import Mapping

from starr_engine.study.published.base import PublishedTask, Style, read_problems
from starr_engine.study.published.programs import HumanEval, Mbpp
from starr_engine.study.published.run_code import CodeLimits
from starr_engine.study.published.word_answers import CompetitionMath, Gsm8k

PUBLISHED = ("gsm8k", "math", "humaneval", "mbpp")
"""The names of all."""

RUN_CODE = ("humaneval", "mbpp")
"""Those whose answers are programs, scored by running them."""


def published_tasks(code: CodeLimits | None = None) -> Mapping[str, PublishedTask]:
    """All benchmarks by name.

    Args:
        code: What programs may use that are run for a score; None refuses to score those of
            HumanEval and MBPP.
    """
    tasks: tuple[PublishedTask, ...] = (Gsm8k(), CompetitionMath(), HumanEval(code), Mbpp(code))
    return {task.name: task for task in tasks}


__all__ = [
    "PUBLISHED",
    "RUN_CODE",
    "CodeLimits",
    "PublishedTask",
    "Style",
    "published_tasks",
    "read_problems",
]
