"""What is measured: all candidates on few prompts, the promising ones on more.

    settings   20 -----> 7 -----> 4         and in every round the baseline and the default
    prompts     8       24       64

Every function here is pure: the rounds follow from the results alone, so that an interrupted search
goes on as if it had not been.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from starr_engine.errors import ConfigError
from starr_engine.study.calibration.search import Rung, SearchPlan, rungs
from starr_engine.study.fronts import Point, layers
from starr_engine.study.grid.axes import Cell
from starr_engine.study.grid.results import CellResult, Measurement
from starr_engine.study.recommend.candidates import BASELINE, Candidate
from starr_engine.study.recommend.goal import Goal, Verdict, judge, quantile_for

FIRST_PROMPTS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What is asked of a search; it serves as the first cells of a study, too.

    Raises:
        ConfigError: If there is nothing to try, no prompt, or no time.
    """

    template: Cell
    """Model, task, lengths and batch; setting and number of prompts are put in."""

    goal: Goal
    candidates: tuple[Candidate, ...]
    """Without the baseline."""

    default: Candidate
    """Measured in every round, whatever it does."""

    num_prompts: int
    """Of the last round."""

    budget_s: float | None = None
    """Seconds of measuring; the last round then takes as many prompts, up to ``num_prompts``, as
    the first round says will fit. The first round runs in any case."""

    def __post_init__(self) -> None:
        if not self.candidates:
            raise ConfigError("there is no setting to try; give a --candidate")
        if self.num_prompts < 1:
            raise ConfigError(f"the number of prompts must be at least 1, got {self.num_prompts}")
        if self.budget_s is not None and not 0 < self.budget_s < math.inf:
            raise ConfigError(f"the budget must be a time above 0, got {self.budget_s}")

    @property
    def first_prompts(self) -> int:
        """Of the first round: at least a full batch."""
        return max(FIRST_PROMPTS, self.template.batch_size)

    def cell(self, candidate: Candidate, num_prompts: int) -> Cell:
        """A setting on so many prompts."""
        return replace(
            self.template,
            cache=candidate.cache,
            remasking=candidate.remasking,
            num_problems=num_prompts,
        )

    def baseline_of(self, cell: Cell) -> Cell:
        """The baseline on the same prompts."""
        return self.cell(BASELINE, cell.num_problems)

    def cells(self) -> Iterator[Cell]:
        """Those of the first round."""
        yield from self.cells_of(rounds(self, ())[0])

    def cells_of(self, asked: Round) -> Iterator[Cell]:
        """Those of a round, the baseline first."""
        for each in (BASELINE, *asked.candidates):
            yield self.cell(each, asked.num_prompts)

    def more_cells(self, results: Sequence[CellResult]) -> list[tuple[Cell, Cell]]:
        """Those of the last round that the results lead to, each with its baseline."""
        cells = self.cells_of(rounds(self, results)[-1])
        return [(cell, self.baseline_of(cell)) for cell in cells]


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """So many candidates on so many prompts."""

    candidates: tuple[Candidate, ...]
    num_prompts: int
    is_last: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A round that is measured."""

    base: Measurement
    verdicts: tuple[Verdict, ...]
    """Of the candidates that have numbers."""

    errors: dict[str, str]
    """Why the others have none, by candidate."""

    z: float
    """Normal quantile of the intervals."""


class BaselineFailedError(ConfigError):
    """Nothing can be compared, because the baseline could not run."""


def rounds(search: Search, results: Iterable[CellResult]) -> list[Round]:
    """The rounds that results lead to: those that are measured, and the next one if there is one.

    Raises:
        BaselineFailedError: If the baseline has no numbers.
    """
    found = {each.cell.id: each for each in results}
    schedule = _schedule(search, search.num_prompts)
    made = [_round(search.candidates, schedule, 0)]
    while (judged := judge_round(search, made[-1], found)) is not None:
        if len(made) == 1 and search.budget_s is not None:
            limit = affordable(search, judged, made[0].num_prompts)
            schedule = _schedule(search, limit)
            made = [_round(search.candidates, schedule, 0)]
        kept = survivors(search, judged, schedule[len(made)]) if not made[-1].is_last else ()
        if not kept:
            break
        made.append(_round(kept, schedule, len(made)))
    return made


def judge_round(search: Search, asked: Round, found: dict[str, CellResult]) -> Judged | None:
    """The verdicts on a round; None while a cell of it is missing.

    Args:
        search: What is searched.
        asked: The round.
        found: Results by the id of their cell.

    Raises:
        BaselineFailedError: If the baseline has no numbers.
    """
    results = [found.get(cell.id) for cell in search.cells_of(asked)]
    listed = [each for each in results if each is not None]
    if len(listed) < len(results):
        return None
    base = listed[0].measured
    if base is None:
        raise BaselineFailedError(f"the baseline ({BASELINE}) could not run: {listed[0].error}")
    z = quantile_for(len(asked.candidates))
    verdicts, errors = [], {}
    for candidate, result in zip(asked.candidates, listed[1:], strict=True):
        verdict = judge(candidate, result, base, search.goal, z)
        if verdict is None:
            errors[str(candidate)] = result.error or "it was asked other prompts than the baseline"
        else:
            verdicts.append(verdict)
    return Judged(base=base, verdicts=tuple(verdicts), errors=errors, z=z)


def ranked(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The most promising first.

    Last are those that are surely outside the limit. Within both groups it counts how many fronts
    of speed and accuracy lie before a setting, then its speed.
    """
    points = [Point(cost=each.cost_s, level=each.measured.accuracy) for each in verdicts]
    depth = layers(points)

    def rank(at: int) -> tuple[bool, int, float, int]:
        each = verdicts[at]
        return each.margin.standing == "surely outside", depth[at], each.cost_s, at

    return [verdicts[at] for at in sorted(range(len(verdicts)), key=rank)]


def survivors(search: Search, judged: Judged, following: Rung) -> tuple[Candidate, ...]:
    """Which candidates go on, in their order; the default always does, if it could run."""
    kept = [each.candidate for each in ranked(judged.verdicts)[: following.num_settings]]
    able = [each.candidate for each in judged.verdicts]
    return tuple(each for each in able if each in kept or each == search.default)


def affordable(search: Search, judged: Judged, first: int) -> int:
    """Prompts of the last round such that all rounds together fit into the budget.

    Args:
        search: With a budget.
        judged: The first round.
        first: Its prompts.

    Returns:
        ``first`` if no further round fits.
    """
    assert search.budget_s is not None
    order = ranked(judged.verdicts)
    times = [each.measured.timing.wall_s / first for each in order]
    pinned = judged.base.timing.wall_s / first
    spent = judged.base.timing.wall_s + sum(each.measured.timing.wall_s for each in order)

    def seconds(rung: Rung) -> float:
        chosen = sum(times[: rung.num_settings])
        late = [
            time for at, (each, time) in enumerate(zip(order, times, strict=True))
            if at >= rung.num_settings and each.candidate == search.default
        ]  # fmt: skip
        return rung.num_prompts * (pinned + chosen + sum(late))

    for limit in range(search.num_prompts, first, -1):
        schedule = _schedule(search, limit)
        if (
            schedule[0].num_prompts == first
            and spent + sum(map(seconds, schedule[1:])) <= search.budget_s
        ):
            return limit
    return first


def _schedule(search: Search, num_prompts: int) -> list[Rung]:
    """The rungs up to so many prompts, without those behind which nobody leaves.

    With a budget the first one stays: it says how long a prompt takes.
    """
    plan = SearchPlan(first_prompts=search.first_prompts)
    listed = rungs(len(search.candidates), num_prompts, plan)
    is_timed = search.budget_s is not None
    return [
        rung
        for at, (rung, following) in enumerate(zip(listed, [*listed[1:], None], strict=True))
        if following is None or following.num_settings < rung.num_settings or (at == 0 and is_timed)
    ]


def _round(candidates: tuple[Candidate, ...], schedule: Sequence[Rung], at: int) -> Round:
    is_last = at == len(schedule) - 1
    return Round(candidates=candidates, num_prompts=schedule[at].num_prompts, is_last=is_last)
