"""Search for a setting, resumably, and write down what was found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from starr_engine.errors import ConfigError, StarrError
from starr_engine.offline.reader import open_source
from starr_engine.params import SamplingParams
from starr_engine.study.grid.axes import TaskChoice
from starr_engine.study.grid.bench import MakeBench, open_bench
from starr_engine.study.grid.job import StudyJob
from starr_engine.study.grid.read import parse_task
from starr_engine.study.grid.run import OnCell, run_study
from starr_engine.study.problem_sets import PROBLEM_SETS
from starr_engine.study.recommend.choose import Recommendation, recommend
from starr_engine.study.recommend.record import policy_file, record_of
from starr_engine.study.recommend.rounds import Search
from starr_engine.study.scoring import is_problem

RECORD: Final = "recommendation.json"
POLICY: Final = "policy.json"
EXIT_NOT_REACHED: Final = 3


class NothingFitsError(StarrError):
    """No setting that was tried is within the limit and faster than the baseline."""

    exit_code = EXIT_NOT_REACHED


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """What is asked."""

    task: TaskChoice
    max_tokens: int
    """Of an output, unless the user says otherwise."""

    num_rows: int | None
    """None for a shipped set, which has as many as are wanted."""


def read_task(text: str) -> Prompts:
    """A shipped set, or a file with the way in which its answers are judged.

    Without a scorer that is the tasks' own for rows of problems, ``exact`` for others with a
    reference, and ``agreement`` for rows without.

    Args:
        text: ``sorting``, ``mine.jsonl`` or ``mine.jsonl:number``.

    Raises:
        ConfigError: If it is none of these, or only some of the rows have a reference.
    """
    path, _, scorer = text.partition(":")
    if path in PROBLEM_SETS:
        if scorer:
            raise ConfigError(f"{path} has a scorer of its own; leave {scorer!r} out")
        [task] = parse_task(path)
        return Prompts(task=task, max_tokens=PROBLEM_SETS[path].max_tokens, num_rows=None)
    if not Path(path).is_file():
        known = ", ".join(PROBLEM_SETS)
        raise ConfigError(f"{path!r} is neither a file nor a shipped task; these are {known}")
    rows = [raw.columns for raw in open_source(Path(path)).rows()]
    if not rows:
        raise ConfigError(f"{path} has no row")
    [task] = parse_task({"file": path, "scorer": scorer or _scorer_for(rows, path)})
    return Prompts(task=task, max_tokens=SamplingParams().max_tokens, num_rows=len(rows))


def _scorer_for(rows: list[Mapping[str, object]], path: str) -> str:
    if all(map(is_problem, rows)):
        return "task"
    with_reference = sum(row.get("reference") is not None for row in rows)
    if with_reference not in (0, len(rows)):
        raise ConfigError(
            f"{with_reference} of {len(rows)} rows of {path} have a reference: give all one, or "
            f"write {path}:agreement to compare with the baseline instead"
        )
    return "exact" if with_reference else "agreement"


def run_recommendation(
    search: Search,
    job: StudyJob,
    *,
    make_bench: MakeBench = open_bench,
    on_cell: OnCell = lambda result, number, total: None,
) -> Recommendation:
    """Measure what the search asks for, choose, and write ``recommendation.json``.

    If a setting was found, ``policy.json`` holds its remasking policy as ``calibrate`` writes it;
    one of an earlier run with another limit is removed. A search with another limit, another
    objective of the same batch size or more prompts uses what is measured (``job.resume``).

    Raises:
        ConfigError: If the results cannot be written or continued, or the baseline cannot run.
        StudyInterruptedError: On SIGINT or SIGTERM; the journal stays.
    """
    results = run_study(
        job, make_bench=make_bench, on_cell=on_cell, more_cells=search.more_cells
    )  # fmt: skip
    found = recommend(search, results)
    (job.folder / RECORD).write_text(json.dumps(record_of(found), indent=1) + "\n")
    policy = job.folder / POLICY
    policy.unlink(missing_ok=True)
    if (content := policy_file(found)) is not None:
        policy.write_text(json.dumps(content, indent=1) + "\n")
    return found
