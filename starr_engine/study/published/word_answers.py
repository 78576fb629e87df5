"""GSM8K and MATH: problems in words, of which only the final answer counts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from starr_engine.errors import ConfigError
from starr_engine.study.published.base import Item, Style, before
from starr_engine.study.published.math_answers import boxed, final_answer, is_equal, last_number
from starr_engine.study.published.rows import Row, field
from starr_engine.study.tasks.base import Problem


class _WordAnswers(ABC):
    """What both share: every row is a problem, and answers are scored one by one."""

    def choose(self, items: Sequence[Item]) -> tuple[list[Item], list[Item]]:
        """No examples: they come from the training split."""
        return [], list(items)

    @abstractmethod
    def score(self, problem: Problem, text: str) -> bool:
        """Whether the final answer is right."""

    def score_many(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[bool]:
        """Score the answers one by one."""
        return [self.score(p, t) for p, t in zip(problems, texts, strict=True)]


class Gsm8k(_WordAnswers):
    """Grade-school problems (Cobbe et al. 2021, arXiv 2110.14168).

    Rows have ``question`` and ``answer``, whose last line is ``#### 42``. Right is who ends with
    the same number: the last one of the text, before a next ``Question:``.
    """

    name = "gsm8k"
    shots = 5
    max_tokens = 256

    def items(self, rows: Sequence[Row], where: str) -> list[Item]:
        """See ``PublishedTask``."""
        found = []
        for at, row in enumerate(rows):
            place = f"row {at} of {where}"
            question, answer = (field(row, name, str, place) for name in ("question", "answer"))
            _, mark, number = answer.rpartition("####")
            if not mark or last_number(number) is None:
                raise ConfigError(f"{place}: the answer does not end with '#### <number>'")
            item = Item(id=str(at), question=question, solution=answer, answer=number.strip())
            found.append(item)
        return found

    def ask(self, item: Item, style: Style) -> str:
        """See ``PublishedTask``."""
        think = "\nLet's think step by step" if style == "chat" else ""
        return f"Question: {item.question}{think}\nAnswer:"

    def show(self, item: Item, style: Style) -> str:
        """See ``PublishedTask``."""
        return f"{self.ask(item, style)} {item.solution}"

    def score(self, problem: Problem, text: str) -> bool:
        """Whether the last number is the answer's."""
        found = last_number(before(text, "Question:"))
        return found is not None and found == last_number(str(problem.answer))


class CompetitionMath(_WordAnswers):
    """MATH (Hendrycks et al. 2021, arXiv 2103.03874) and its subset MATH-500.

    Rows have ``problem`` and ``solution``, and those of MATH-500 ``answer``. Right is who boxes
    the same answer, or says that it is the final answer; see ``canonical`` for what is the same.
    """

    name = "math"
    shots = 4
    max_tokens = 512

    def items(self, rows: Sequence[Row], where: str) -> list[Item]:
        """See ``PublishedTask``."""
        found = []
        for at, row in enumerate(rows):
            place = f"row {at} of {where}"
            problem, solution = (field(row, name, str, place) for name in ("problem", "solution"))
            answer = row.get("answer") or boxed(solution)
            if not isinstance(answer, str):
                raise ConfigError(f"{place}: there is no answer, and the solution boxes none")
            name = str(row.get("unique_id") or at)
            found.append(Item(id=name, question=problem, solution=solution, answer=answer))
        return found

    def ask(self, item: Item, style: Style) -> str:
        """See ``PublishedTask``."""
        if style == "chat":
            step = "Please reason step by step, and put your final answer within \\boxed{}."
            return f"{item.question}\n{step}"
        return f"Problem:\n{item.question}\n\nSolution:"

    def show(self, item: Item, style: Style) -> str:
        """See ``PublishedTask``."""
        space = "\n" if style == "chat" else " "
        return f"{self.ask(item, style)}{space}{item.solution}"

    def score(self, problem: Problem, text: str) -> bool:
        """Whether the final answer is the same."""
        found = final_answer(before(text, "Problem:"))
        return found is not None and is_equal(found, str(problem.answer))
