"""The prompts that a policy is calibrated on, and their parts."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Final

from starr_engine.errors import ConfigError
from starr_engine.offline.reader import open_source
from starr_engine.offline.rows import Encoder, RawRow, parse_row
from starr_engine.params import SamplingParams
from starr_engine.study.calibration.outcomes import Goal
from starr_engine.study.problem_sets import PROBLEM_SETS, TRAINED_SETS, set_rows, shipped_rows
from starr_engine.study.published import RUN_CODE
from starr_engine.study.scoring import problem_of
from starr_engine.study.tasks import Problem

LEAST_PROMPTS: Final = 4
"""Fewer than this cannot be split into two parts that say anything."""

SHIPPED: Final = "shipped"
ALL_SETS: Final = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationPrompt:
    """One prompt, with the decoding that its row asks for."""

    token_ids: tuple[int, ...]

    params: SamplingParams
    """Policy and its arguments are those of the flags; calibration puts its own there."""

    problem: Problem | None = None
    """What scores an output; None without a task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSet:
    """All prompts of a calibration."""

    source: str
    """The file or the sets, as the user named them."""

    fingerprint: str
    """Changes whenever a prompt, its order or what it asks for does."""

    prompts: tuple[CalibrationPrompt, ...]


def check_prompts(prompts: PromptSet, goal: Goal) -> None:
    """Check that the goal means something on the prompts.

    Raises:
        ConfigError: If outputs that are drawn are to agree: their noise depends on the number of
            forwards, so that a different policy is a different draw.
    """
    if goal.measure == "accuracy":
        return
    for at, prompt in enumerate(prompts.prompts):
        if prompt.params.temperature > 0:
            raise ConfigError(
                f"prompt {at} has temperature {prompt.params.temperature:g}: outputs that are "
                "drawn differ whatever the policy; calibrate agreement at temperature 0"
            )


def split_prompts(count: int, held_out: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices for the search and for the report, shuffled, none in both.

    Args:
        count: Prompts.
        held_out: Share for the report, strictly between 0 and 1.
        seed: Equal seeds give equal parts.

    Raises:
        ConfigError: If there are too few prompts or the share leaves a part empty.
    """
    if count < LEAST_PROMPTS:
        raise ConfigError(f"calibration needs at least {LEAST_PROMPTS} prompts, got {count}")
    if not 0.0 < held_out < 1.0:
        raise ConfigError(f"the held-out share must lie between 0 and 1, got {held_out}")
    order = list(range(count))
    random.Random(f"split/{seed}").shuffle(order)
    at = min(count - 1, max(1, round(count * held_out)))
    return order[at:], order[:at]


def read_prompts(
    source: str,
    params: SamplingParams,
    get_tokenizer: Callable[[], Encoder],
    *,
    limit: int,
    seed: int,
    with_problems: bool,
) -> PromptSet:
    """Read a file of rows, or make the problems of shipped sets.

    Sets are drawn from the split ``demo``: neither trained on nor part of a published table.

    Args:
        source: ``.jsonl`` or ``.parquet``; or names of sets with commas between them, ``all`` of
            those that the shipped models were trained on, or ``shipped`` for the problems that come
            with the package.
        params: What a row asks for unless it says otherwise.
        get_tokenizer: Makes the ids; called only for rows of text.
        limit: Most prompts; of a longer file this many are drawn.
        seed: Of what is drawn.
        with_problems: Whether every row must be a task's problem, to be scored.

    Raises:
        ConfigError: If the source is neither, a row cannot run, or it is no problem and must be.
    """
    rows = _set_rows(source, limit, seed)
    is_set = rows is not None
    if rows is None:
        rows = _file_rows(source)
        if len(rows) > limit:
            chosen = sorted(random.Random(f"rows/{seed}").sample(range(len(rows)), limit))
            rows = [rows[at] for at in chosen]
    prompts = []
    for raw in rows:
        row = parse_row(raw, params, get_tokenizer)
        if row.error is not None:
            raise ConfigError(f"row {raw.index} of {source} cannot run: {row.error}")
        if row.is_infill or row.params.n > 1:
            raise ConfigError(
                f"row {raw.index} of {source} has a gap, a template or n above 1; calibration "
                "takes prompts of one output each, so remove it"
            )
        problem = _problem(raw, source) if is_set or with_problems else None
        [prompt] = row.candidates
        token_ids = tuple(prompt.prompt_token_ids)
        prompts.append(CalibrationPrompt(token_ids=token_ids, params=row.params, problem=problem))
    return PromptSet(source=source, fingerprint=_fingerprint(prompts), prompts=tuple(prompts))


def _set_rows(source: str, limit: int, seed: int) -> list[RawRow] | None:
    """Rows of shipped sets, the sets in turns; None if ``source`` names none."""
    if source == SHIPPED:
        rows = shipped_rows()[:limit]
    else:
        names = list(TRAINED_SETS) if source == ALL_SETS else source.split(",")
        if not all(name in PROBLEM_SETS for name in names):
            return None
        share = -(-limit // len(names))
        columns = [set_rows(name, "demo", share, seed) for name in names]
        rows = [row for turn in zip_longest(*columns) for row in turn if row is not None][:limit]
    return [RawRow(index=index, columns=row) for index, row in enumerate(rows)]


def _file_rows(source: str) -> list[RawRow]:
    path = Path(source)
    if not path.suffix and not path.exists():
        known = ", ".join((SHIPPED, ALL_SETS, *PROBLEM_SETS))
        raise ConfigError(f"{source!r} is neither a file nor a shipped set; the sets are {known}")
    return list(open_source(path).rows())


def _problem(raw: RawRow, source: str) -> Problem:
    where = f"row {raw.index} of {source}"
    try:
        problem = problem_of(raw.columns, where)
    except ConfigError as error:
        raise ConfigError(
            f"{error}. A goal of accuracy needs problems; give --min-agreement for other prompts"
        ) from error
    if problem.task in RUN_CODE:
        raise ConfigError(
            f"{where} is of {problem.task}, whose answers are programs, and calibration runs none; "
            "give --min-agreement"
        )
    return problem


def _fingerprint(prompts: Sequence[CalibrationPrompt]) -> str:
    digest = hashlib.sha256()
    for prompt in prompts:
        asked = [list(prompt.token_ids), repr(prompt.params), repr(prompt.problem)]
        digest.update(json.dumps(asked).encode() + b"\n")
    return f"sha256:{digest.hexdigest()}"
