"""What is wanted of a setting, and how one that was measured does by it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Final, Literal

from starr_engine.errors import ConfigError
from starr_engine.study.fronts import ROUNDING
from starr_engine.study.grid.axes import Cell
from starr_engine.study.grid.results import CellResult, Comparison, Measurement
from starr_engine.study.grid.significance import difference_interval
from starr_engine.study.intervals import Interval, wilson_interval
from starr_engine.study.recommend.candidates import Candidate

Objective = Literal["latency", "throughput"]
Standing = Literal["surely within", "within", "outside", "surely outside"]

MISTAKE: Final = 0.05
MOST_PROMPTS: Final = 100_000
"""A number of prompts beyond which nobody measures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """As fast as possible, within a limit.

    Raises:
        ConfigError: If there is not exactly one limit, or it is no share.
    """

    objective: Objective
    """``latency``: median seconds of a request that runs alone, unless a batch size is asked for.
    ``throughput``: seconds for all prompts, with a full batch."""

    least_accuracy: float | None = None
    """Share of prompts that must be solved."""

    most_loss: float | None = None
    """Share of prompts by which accuracy may be below the baseline's."""

    needs_certainty: bool = False
    """Whether the whole interval must lie within the limit, not only what was measured."""

    def __post_init__(self) -> None:
        if (self.least_accuracy is None) == (self.most_loss is None):
            raise ConfigError("give one limit: a least accuracy, or a largest loss")
        for name in ("least_accuracy", "most_loss"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value <= 1.0:
                raise ConfigError(f"{name} is a share of the prompts, 0 to 1, got {value}")

    def of_agreement(self) -> Goal:
        """The goal where agreement stands in for accuracy: the baseline's is 1."""
        if self.most_loss is None:
            return self
        return replace(self, least_accuracy=1.0 - self.most_loss, most_loss=None)

    def cost_s(self, measured: Measurement) -> float:
        """Seconds of a request under the objective; less is better.

        Throughput compares seconds for the same prompts: tokens/s would reward longer answers.
        """
        if self.objective == "latency":
            return measured.timing.latency_p50_s
        return measured.timing.wall_s / len(measured.solved)

    def margin(self, gained: float, lost: float, base: float, count: float, z: float) -> Margin:
        """How far within the limit a setting is.

        Args:
            gained: Prompts that only the setting solves.
            lost: Prompts that only the baseline solves.
            base: Prompts that the baseline solves.
            count: All prompts.
            z: Normal quantile of the interval.
        """
        if self.most_loss is not None:
            value = (gained - lost) / count
            low, high = difference_interval(gained, lost, count, z)
            shift = self.most_loss
        else:
            assert self.least_accuracy is not None
            value = (base + gained - lost) / count
            low, high = wilson_interval(value, round(count), z)
            shift = -self.least_accuracy
        return Margin(value=value + shift, interval=(low + shift, high + shift))


@dataclass(frozen=True, slots=True, kw_only=True)
class Margin:
    """Accuracy, or its difference from the baseline's, less the limit: 0 and above is within."""

    value: float
    interval: Interval

    @property
    def standing(self) -> Standing:
        """Where what was measured lies, and whether all of the interval lies there too."""
        if self.value >= -ROUNDING:
            return "surely within" if self.interval[0] >= -ROUNDING else "within"
        return "surely outside" if self.interval[1] < -ROUNDING else "outside"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A setting that was measured, beside the baseline on the same prompts."""

    candidate: Candidate
    cell: Cell
    measured: Measurement
    compared: Comparison

    cost_s: float
    """See ``Goal.cost_s``."""

    faster: float
    """Seconds of the baseline / seconds of the setting."""

    loss: float
    """Accuracy of the baseline - accuracy of the setting; below 0 is a gain."""

    loss_interval: Interval
    """On the same prompts; see ``difference_interval``."""

    margin: Margin

    @property
    def count(self) -> int:
        """Prompts."""
        return len(self.measured.solved)


def quantile_for(num_settings: int) -> float:
    """Normal quantile with which 95 % of studies have no interval that misses its value.

    The choice is the best of several, whose luck one interval of 95 % each would not cover
    (Bonferroni's correction).
    """
    return NormalDist().inv_cdf(1 - MISTAKE / (2 * max(1, num_settings)))


def judge(
    candidate: Candidate, result: CellResult, base: Measurement, goal: Goal, z: float
) -> Verdict | None:
    """The verdict on a result; None if it has no numbers.

    Args:
        candidate: The setting.
        result: Compared with the baseline.
        base: The baseline on the same prompts.
        goal: What is wanted.
        z: See :func:`quantile_for`.
    """
    measured, compared = result.measured, result.compared
    if measured is None or compared is None:
        return None
    count = len(measured.solved)
    low, high = difference_interval(compared.gained, compared.lost, count, z)
    if result.cell.task.scorer == "agreement":  # the baseline agrees with itself: nothing is gained
        low, high = (each - 1.0 for each in wilson_interval(measured.accuracy, count, z))
    cost = goal.cost_s(measured)
    return Verdict(
        candidate=candidate,
        cell=result.cell,
        measured=measured,
        compared=compared,
        cost_s=cost,
        faster=goal.cost_s(base) / cost,
        loss=(compared.lost - compared.gained) / count,
        loss_interval=(-high, -low),
        margin=goal.margin(
            compared.gained, compared.lost, base.solved.count("1"), count, z
        ),
    )  # fmt: skip


def prompts_to_be_sure(verdict: Verdict, goal: Goal, z: float) -> int | None:
    """Prompts at which the same shares would be surely within the limit, or surely outside.

    None if that takes more than ``MOST_PROMPTS``.
    """
    gained, lost = verdict.compared.gained, verdict.compared.lost
    base = verdict.measured.solved.count("1") - gained + lost

    def is_sure(count: int) -> bool:
        scale = count / verdict.count
        margin = goal.margin(gained * scale, lost * scale, base * scale, count, z)
        return margin.standing in ("surely within", "surely outside")

    low, high = verdict.count, MOST_PROMPTS
    if not is_sure(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_sure(middle) else (middle + 1, high)
    return high
