"""Successive halving: every setting on few prompts, the promising ones on more.

    settings   64 -----> 22 -----> 8        then two rounds of settings near the front,
    prompts     8        24       100       which pass through the same rungs

The search knows neither engine nor policy: it asks for points and is handed them, so that equal
points give an equal search, whatever was run before.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from starr_engine.errors import ConfigError
from starr_engine.study.calibration.candidates import Setting, draw, key_of, neighbours
from starr_engine.study.calibration.spaces import SearchSpace
from starr_engine.study.fronts import ROUNDING, Point, front, layers
from starr_engine.study.intervals import wilson_interval

LEAST_SETTINGS: Final = 4
"""A rung keeps at least this many, so that there is a front to look around."""

LAST_GAIN: Final = 1.5
"""A rung with fewer prompts than this many times the one before is not worth a rung."""

MeasureSettings = Callable[[Sequence[Setting], int], Sequence[Point]]
"""Settings and a number n -> their points over the first n prompts of the search."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPlan:
    """How much is tried.

    Raises:
        ConfigError: If a value is out of range; names all of them.
    """

    num_settings: int = 64
    """Settings drawn from the whole space."""

    num_rounds: int = 2
    """Rounds of settings near the front, each with a quarter as many."""

    first_prompts: int = 8
    """Prompts of the first rung."""

    factor: int = 3
    """From rung to rung: times as many prompts, a factor-th of the settings."""

    spread: float = 0.15
    """Step of the first round near the front, as a share of a range; halved every round."""

    seed: int = 0

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be at least {least}, got {value}"
            for name, least in (
                ("num_settings", 1), ("num_rounds", 0), ("first_prompts", 1), ("factor", 2)
            )
            if (value := getattr(self, name)) < least
        ]  # fmt: skip
        if not 0.0 < self.spread <= 1.0:
            problems.append(f"spread must lie in (0, 1], got {self.spread}")
        if problems:
            raise ConfigError("; ".join(problems))

    @property
    def settings_per_round(self) -> int:
        """Of a round near the front."""
        return max(LEAST_SETTINGS, self.num_settings // 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """So many settings on so many prompts."""

    num_settings: int
    num_prompts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Finalist:
    """A setting that was measured on all prompts of the search."""

    setting: Setting
    point: Point


def rungs(num_settings: int, num_prompts: int, plan: SearchPlan) -> list[Rung]:
    """The schedule of one round; the last rung has all prompts."""
    schedule: list[Rung] = []
    prompts = min(plan.first_prompts, num_prompts)
    while True:
        if prompts * LAST_GAIN > num_prompts:
            prompts = num_prompts
        schedule.append(Rung(num_settings=num_settings, num_prompts=prompts))
        if prompts == num_prompts:
            return schedule
        num_settings = min(num_settings, max(LEAST_SETTINGS, -(-num_settings // plan.factor)))
        prompts = min(num_prompts, prompts * plan.factor)


def planned_evaluations(num_prompts: int, plan: SearchPlan) -> int:
    """Most (setting, prompt) pairs that a search runs."""
    total = 0
    for count in (plan.num_settings, *[plan.settings_per_round] * plan.num_rounds):
        before = 0
        for rung in rungs(count, num_prompts, plan):
            total += rung.num_settings * (rung.num_prompts - before)
            before = rung.num_prompts
    return total


def search(
    space: SearchSpace,
    plan: SearchPlan,
    *,
    least: float,
    num_prompts: int,
    measure: MeasureSettings,
    check: Callable[[Setting], object],
    start: Sequence[Setting] = (),
) -> list[Finalist]:
    """Find settings that cost little at their level, around the level ``least`` above all.

    Args:
        space: Where to look.
        plan: How much to try.
        least: Level that is required; settings that cannot be told from it go first.
        num_prompts: Prompts of the search.
        measure: Gives the points.
        check: Raises RequestError for a setting that the policy refuses.
        start: Settings that are tried first and are finalists whatever they do, such as the
            policy's defaults.

    Returns:
        Everything measured on all prompts, in the order in which it was.
    """
    rng = random.Random(f"search/{plan.seed}")
    known = {key_of(setting) for setting in start}
    drawn = draw(space, plan.num_settings, rng, check)
    first = [*start, *(setting for setting in drawn if key_of(setting) not in known)]
    schedule = rungs(len(first), num_prompts, plan)
    finalists = halve(first, schedule, least, measure, num_pinned=len(start))
    known |= {key_of(setting) for setting in drawn}
    for number in range(plan.num_rounds):
        centres = [each.setting for each in best_of(finalists)]
        near = neighbours(
            space, centres, plan.settings_per_round, rng, check,
            spread=plan.spread / 2**number, known=known,
        )  # fmt: skip
        if not near:
            break
        known |= {key_of(setting) for setting in near}
        finalists += halve(near, rungs(len(near), num_prompts, plan), least, measure)
    return finalists


def halve(
    settings: Sequence[Setting],
    schedule: Sequence[Rung],
    least: float,
    measure: MeasureSettings,
    *,
    num_pinned: int = 0,
) -> list[Finalist]:
    """Take settings through the rungs.

    Args:
        settings: Tried on the first rung.
        schedule: See :func:`rungs`.
        least: See :func:`search`.
        measure: Gives the points.
        num_pinned: So many settings, from the first, go through all rungs whatever they do.
    """
    alive = list(settings)
    for rung, following in zip(schedule, [*schedule[1:], None], strict=True):
        points = measure(alive, rung.num_prompts)
        if following is None:
            return [
                Finalist(setting=setting, point=point)
                for setting, point in zip(alive, points, strict=True)
            ]
        order = ranked(points, least, rung.num_prompts)
        kept = order[: following.num_settings]
        alive = [alive[at] for at in sorted({*kept, *range(num_pinned)})]
    raise AssertionError("a schedule has at least one rung")


def ranked(points: Sequence[Point], least: float, num_prompts: int) -> list[int]:
    """Indices, the most promising first.

    First those whose 95 % interval reaches ``least``, then the others; within both by how many
    fronts lie before them, then by cost.
    """
    depth = layers(points)

    def rank(at: int) -> tuple[bool, int, float, int]:
        _, high = wilson_interval(points[at].level, num_prompts)
        return high < least, depth[at], points[at].cost, at

    return sorted(range(len(points)), key=rank)


def best_of(finalists: Sequence[Finalist]) -> list[Finalist]:
    """The front, by rising cost and level."""
    return [finalists[at] for at in front([each.point for each in finalists])]


def choose(best: Sequence[Finalist], least: float) -> Finalist | None:
    """The cheapest of the front that reaches ``least``; None if none does."""
    return next((each for each in best if each.point.level >= least - ROUNDING), None)
