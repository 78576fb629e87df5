"""What a cell asks, and how its answers are judged."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from starr_engine.errors import ConfigError
from starr_engine.offline.reader import open_source
from starr_engine.offline.rows import Columns, Encoder, RawRow, parse_row
from starr_engine.params import SamplingParams
from starr_engine.study.grid.axes import Cell, Scorer
from starr_engine.study.problem_sets import PROBLEM_SETS
from starr_engine.study.published import RUN_CODE, CodeLimits
from starr_engine.study.scoring import problem_of, scorer_of

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """The prompts of a cell; equal for all cells of one task, seed, number and model."""

    prompts: tuple[tuple[int, ...], ...]

    max_tokens: int
    """For cells that leave the length to the task."""

    score: Callable[[Sequence[str]], list[bool]]
    """Which of the answers are right; all of them where the baseline's are to be compared with."""

    @property
    def fingerprint(self) -> str:
        """Changes with any token of any prompt."""
        text = json.dumps(self.prompts)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def ask(
    cell: Cell, get_tokenizer: Callable[[], Encoder], code: CodeLimits | None = None
) -> Questions:
    """The questions of a cell.

    Args:
        cell: Names the task.
        get_tokenizer: Makes the ids.
        code: What programs may use that are answers; None runs none.

    Raises:
        ConfigError: If a row of its file cannot be asked or scored.
    """
    if cell.task.file:
        return _from_file(cell, get_tokenizer, code)
    return _from_set(cell, get_tokenizer())


def _from_set(cell: Cell, tokenizer: Encoder) -> Questions:
    each = PROBLEM_SETS[cell.task.name]
    problems = each.problems("test", cell.num_problems, cell.seed)
    shown = each.problems("demo", cell.shots, cell.seed)
    front = "".join(f"{problem.prompt}\n{problem.reference}\n\n" for problem in shown)
    return Questions(
        prompts=tuple(tuple(tokenizer.encode(front + problem.prompt)) for problem in problems),
        max_tokens=each.max_tokens,
        score=lambda texts: scorer_of(each.task).score_many(problems, texts),
    )


def _from_file(
    cell: Cell, get_tokenizer: Callable[[], Encoder], code: CodeLimits | None
) -> Questions:
    source = Path(cell.task.file)
    rows = list(open_source(source).rows())
    if not rows:
        raise ConfigError(f"{source} has no row")
    if len(rows) > cell.num_problems:
        drawn = random.Random(f"rows/{cell.seed}").sample(range(len(rows)), cell.num_problems)
        rows = [rows[at] for at in sorted(drawn)]
    scorers = [_scorer(raw.columns, cell.task.scorer, f"row {raw.index} of {source}", code)
               for raw in rows]  # fmt: skip
    return Questions(
        prompts=tuple(_prompt(raw, source, get_tokenizer) for raw in rows),
        max_tokens=SamplingParams().max_tokens,
        score=lambda texts: [score(text) for score, text in zip(scorers, texts, strict=True)],
    )


def _prompt(raw: RawRow, source: Path, get_tokenizer: Callable[[], Encoder]) -> tuple[int, ...]:
    defaults = SamplingParams()
    row = parse_row(raw, defaults, get_tokenizer)
    if row.error is not None:
        raise ConfigError(f"row {raw.index} of {source} cannot be asked: {row.error}")
    if row.is_infill or row.params != defaults:
        raise ConfigError(
            f"row {raw.index} of {source} has a gap or says how it is decoded; that is what a "
            "study varies, so remove it"
        )
    [prompt] = row.candidates
    return tuple(prompt.prompt_token_ids)


def _scorer(
    columns: Columns, scorer: Scorer, where: str, code: CodeLimits | None
) -> Callable[[str], bool]:
    if scorer == "agreement":
        return lambda text: True  # ``compare_all`` judges, when the baseline's outputs are there
    if scorer == "task":
        try:
            problem = problem_of(columns, where)
        except ConfigError as error:
            raise ConfigError(f"{error}; or use another scorer, such as exact or number") from error
        if problem.task in RUN_CODE and code is None:
            raise ConfigError(
                f"{where} is of {problem.task}, whose answers are programs that nobody has asked "
                "to run: give --run-code; see docs/tasks.md"
            )
        task = scorer_of(problem.task, code)
        return lambda text: task.score(problem, text)
    given = columns.get("reference")
    references = [given] if isinstance(given, str | int | float) else given
    if not isinstance(references, list) or not references:
        raise ConfigError(
            f"{where} has no reference: a text, a number, or a list of them; the scorer agreement "
            "needs none"
        )
    wanted = [str(each) for each in references]
    return lambda text: is_right(text, wanted, scorer)


def is_right(text: str, references: Sequence[str], scorer: Scorer) -> bool:
    """Whether ``text`` answers as one of ``references`` does; see ``Scorer``."""
    if scorer == "number":
        found = _last_number(text)
        return found is not None and found in map(_last_number, references)
    plain = " ".join(text.split())
    wanted = [" ".join(each.split()) for each in references]
    return any(each in plain for each in wanted) if scorer == "contains" else plain in wanted


def _last_number(text: str) -> float | None:
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None
