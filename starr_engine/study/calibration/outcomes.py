"""What one setting did on one prompt, and on many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from starr_engine.study.intervals import Interval, mean, mean_interval, wilson_interval

Measure = Literal["prompts", "tokens", "accuracy"]
"""What has to be reached: the share of prompts with identical outputs, the mean share of equal
tokens, or the share of prompts that are solved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """The fewest forwards at which something still holds."""

    measure: Measure

    least: float
    """In [0, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One setting on one prompt."""

    nfe: int

    num_unmasked: int

    is_identical: bool
    """Whether the token ids are those of one token per step."""

    equal_share: float
    """See ``agreement.equal_share``."""

    is_solved: bool | None = None
    """What the task's scorer says; None without a task."""

    def level(self, measure: Measure) -> float:
        """What it adds to the mean that the goal speaks of, in [0, 1]."""
        if measure == "tokens":
            return self.equal_share
        if measure == "prompts":
            return float(self.is_identical)
        assert self.is_solved is not None, "a goal of accuracy takes prompts with a task"
        return float(self.is_solved)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One setting on many prompts; every interval is of 95 %."""

    num_prompts: int

    nfe: float
    """Mean forwards per prompt."""

    nfe_interval: Interval

    tpf: float
    """Unmasked positions of all prompts / forwards of all prompts."""

    agreement: float
    """Share of prompts whose output is identical to that of one token per step."""

    agreement_interval: Interval

    token_agreement: float
    """Mean over prompts of the share of equal tokens."""

    token_agreement_interval: Interval

    accuracy: float | None = None
    """Share of solved prompts; None where the prompts have no task."""

    accuracy_interval: Interval | None = None

    def level(self, measure: Measure) -> float:
        """The mean that the goal speaks of."""
        if measure == "tokens":
            return self.token_agreement
        if measure == "prompts":
            return self.agreement
        assert self.accuracy is not None, "a goal of accuracy takes prompts with a task"
        return self.accuracy

    def level_interval(self, measure: Measure) -> Interval:
        """Its interval."""
        return wilson_interval(self.level(measure), self.num_prompts)


def summarize(outcomes: Sequence[Outcome]) -> Summary:
    """The means over prompts, at least one."""
    count = len(outcomes)
    agreement = mean(each.is_identical for each in outcomes)
    tokens = mean(each.equal_share for each in outcomes)
    solved = [each.is_solved for each in outcomes if each.is_solved is not None]
    accuracy = mean(solved) if len(solved) == count else None
    num_forwards = sum(each.nfe for each in outcomes)
    return Summary(
        num_prompts=count,
        nfe=num_forwards / count,
        nfe_interval=mean_interval([each.nfe for each in outcomes]),
        tpf=sum(each.num_unmasked for each in outcomes) / num_forwards if num_forwards else 0.0,
        agreement=agreement,
        agreement_interval=wilson_interval(agreement, count),
        token_agreement=tokens,
        token_agreement_interval=wilson_interval(tokens, count),
        accuracy=accuracy,
        accuracy_interval=None if accuracy is None else wilson_interval(accuracy, count),
    )
