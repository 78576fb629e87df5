"""Which setting follows from the last round: a pure function of its results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from starr_engine.study.grid.measure import EXACT
from starr_engine.study.grid.results import CellResult
from starr_engine.study.recommend.candidates import BASELINE
from starr_engine.study.recommend.goal import Verdict
from starr_engine.study.recommend.rounds import Judged, Search, judge_round, rounds

TIE: Final = 0.1
"""Settings whose times differ by less are as fast as each other: times are of one run, and a gain
below it is no reason to leave the default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """What follows from a search."""

    search: Search
    num_prompts: int
    """Of the last round."""

    num_rounds: int
    judged: Judged
    """The last round."""

    chosen: Verdict | None
    """None if no setting is within the limit and faster than the baseline."""

    nearest: Verdict | None
    """Of the settings that are outside the limit, the one that misses it by least; the faster of
    two that miss it alike."""

    as_fast: tuple[Verdict, ...]
    """Others within the limit whose speed cannot be told from the chosen one's."""

    environment: dict[str, object]
    """Where it was measured."""

    @property
    def default(self) -> Verdict | None:
        """The default setting, if it could run."""
        wanted = self.search.default
        return next((each for each in self.judged.verdicts if each.candidate == wanted), None)


def recommend(search: Search, results: Sequence[CellResult]) -> Recommendation:
    """What the results of a search that is complete recommend.

    Of the settings that are within the limit and faster than the baseline the fastest is sought;
    of those as fast as that one (``TIE``) the most accurate is taken, of equals the default, then
    an exact one, then the faster.

    Raises:
        BaselineFailedError: If the baseline has no numbers.
    """
    made = rounds(search, results)
    found = {each.cell.id: each for each in results}
    judged = judge_round(search, made[-1], found)
    assert judged is not None, "a search is complete when its last round is measured"
    fitting = [each for each in judged.verdicts if _fits(each, search) and each.faster > 1.0]
    chosen, as_fast = None, []
    if fitting:
        fastest = min(each.cost_s for each in fitting)
        level = [each for each in fitting if each.cost_s <= fastest * (1 + TIE)]

        def rank(each: Verdict) -> tuple[float, bool, bool, float]:
            is_default = each.candidate == search.default
            return (
                -each.measured.accuracy, not is_default, each.measured.label != EXACT, each.cost_s,
            )  # fmt: skip

        chosen = min(level, key=rank)
        as_fast = [each for each in level if each is not chosen]
    outside = [each for each in judged.verdicts if not _fits(each, search)]
    nearest = max(outside, key=lambda each: (each.margin.value, -each.cost_s), default=None)
    base = found[search.cell(BASELINE, made[-1].num_prompts).id]
    return Recommendation(
        search=search,
        num_prompts=made[-1].num_prompts,
        num_rounds=len(made),
        judged=judged,
        chosen=chosen,
        nearest=nearest,
        as_fast=tuple(as_fast),
        environment=dict(base.environment),
    )


def _fits(verdict: Verdict, search: Search) -> bool:
    standing = verdict.margin.standing
    return standing == "surely within" or (standing == "within" and not search.goal.needs_certainty)
