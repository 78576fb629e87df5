"""HumanEval and MBPP: functions, of which only what they compute counts."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Final, cast

from starr_engine.errors import ConfigError
from starr_engine.study.published.base import Item, Style, before
from starr_engine.study.published.rows import Row, field
from starr_engine.study.published.run_code import CodeLimits, run_program
from starr_engine.study.tasks.base import JsonValue, Problem

_FENCE: Final = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL)
_STOPS: Final = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint", "\n```")
"""Where a completed function ends (Chen et al. 2021, section 2.2); the fence is for chat."""

_WHOLE: Final = ("def ", "from ", "import ", "@", "#")
"""How an answer starts that writes the function anew; a continuation is indented."""


class _Programs(ABC):
    """What both share: answers are run.

    Args:
        code: What a program may use; None refuses to score.
    """

    name: str

    def __init__(self, code: CodeLimits | None = None) -> None:
        self.code = code

    @abstractmethod
    def program(self, problem: Problem, text: str) -> str:
        """The answer as a program with its tests."""

    def score(self, problem: Problem, text: str) -> bool:
        """Whether the program passes its tests.

        Raises:
            ConfigError: If running programs was not asked for, or cannot be done safely here.
        """
        if self.code is None:
            raise ConfigError(
                f"{self.name} is scored by running programs that a model wrote, which nobody has "
                "asked for: give --run-code, or CodeLimits() in Python; see docs/tasks.md"
            )
        return run_program(self.program(problem, text), self.code).passed

    def score_many(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[bool]:
        """Run the answers one by one."""
        return [self.score(p, t) for p, t in zip(problems, texts, strict=True)]


class HumanEval(_Programs):
    """Functions to be completed from their docstring (Chen et al. 2021, arXiv 2107.03374).

    Rows have ``task_id``, ``prompt``, ``canonical_solution``, ``test`` and ``entry_point``.
    """

    name = "humaneval"
    shots = 0
    max_tokens = 512

    def items(self, rows: Sequence[Row], where: str) -> list[Item]:
        """See ``PublishedTask``."""
        names = ("task_id", "prompt", "canonical_solution", "test", "entry_point")
        found = []
        for at, row in enumerate(rows):
            name, prompt, solution, test, function = (
                field(row, each, str, f"row {at} of {where}") for each in names
            )
            answer: JsonValue = {"start": prompt, "test": test, "function": function}
            found.append(Item(id=name, question=prompt, solution=solution, answer=answer))
        return found

    def choose(self, items: Sequence[Item]) -> tuple[list[Item], list[Item]]:
        """No examples."""
        return [], list(items)

    def ask(self, item: Item, style: Style) -> str:
        """See ``PublishedTask``."""
        lead = "Complete the following python code:\n" if style == "chat" else ""
        return f"{lead}{item.question}"

    def show(self, item: Item, style: Style) -> str:
        """See ``PublishedTask``."""
        return f"{self.ask(item, style)}{item.solution}"

    def program(self, problem: Problem, text: str) -> str:
        """The start with its continuation; or, where the answer repeats the function, that one."""
        answer = cast(dict[str, Any], problem.answer)
        start, function = answer["start"], answer["function"]
        definition = f"def {function}("
        fenced = _FENCE.search(text)
        code = fenced[1] if fenced else text
        if definition in code and code.lstrip("\n").startswith(_WHOLE):
            # What stands before the function in the prompt, imports and helpers, may be needed.
            code = start[: start.rfind(definition)] + code
        else:
            code = start + before(code, *_STOPS)
        return f"{code}\n\n{answer['test']}\n\ncheck({function})\n"


class Mbpp(_Programs):
    """Small functions from a sentence and three tests (Austin et al. 2021, arXiv 2108.07732).

    Rows have ``task_id``, ``code``, ``test_list``, and ``text`` (or, in the sanitized file,
    ``prompt``); ``test_setup_code`` or ``test_imports`` come first. Numbers 11 to 510 are problems
    and 2, 3 and 4 the examples, as the paper and the evaluations after it have it.
    """

    name = "mbpp"
    shots = 3
    max_tokens = 512
    _EXAMPLES: Final = range(2, 5)
    _PROBLEMS: Final = range(11, 511)

    def items(self, rows: Sequence[Row], where: str) -> list[Item]:
        """See ``PublishedTask``."""
        found = []
        for at, row in enumerate(rows):
            place = f"row {at} of {where}"
            number, code = field(row, "task_id", int, place), field(row, "code", str, place)
            tests = field(row, "test_list", list, place)
            text = field(row, "text" if "text" in row else "prompt", str, place)
            setup = [row.get("test_setup_code") or "", *(row.get("test_imports") or ())]
            listed = "\n".join(map(str, tests))
            question = f"{text} Your code should pass these tests:\n\n{listed}"
            answer: JsonValue = {"setup": "\n".join(setup), "tests": listed}
            found.append(Item(id=str(number), question=question, solution=code, answer=answer))
        return found

    def choose(self, items: Sequence[Item]) -> tuple[list[Item], list[Item]]:
        """By number; the sanitized file lacks some."""
        shown = [item for item in items if int(item.id) in self._EXAMPLES]
        return shown, [item for item in items if int(item.id) in self._PROBLEMS]

    def ask(self, item: Item, style: Style) -> str:
        """See ``PublishedTask``; both styles are the same."""
        lead = "You are an expert Python programmer, and here is your task:"
        return f"{lead} {item.question}\n[BEGIN]\n"

    def show(self, item: Item, style: Style) -> str:
        """See ``PublishedTask``."""
        return f"{self.ask(item, style)}{item.solution}\n[DONE]"

    def program(self, problem: Problem, text: str) -> str:
        """The answer, up to its end mark or in its fence, and the tests."""
        answer = cast(dict[str, Any], problem.answer)
        text = before(text, "[DONE]").removeprefix("[BEGIN]")
        fenced = _FENCE.search(text)
        code = fenced[1] if fenced else text
        return f"{answer['setup']}\n{code}\n\n{answer['tests']}\n"
