"""What a study says: fronts, shares of a speed-up, accuracy under a budget, scaling."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from starr_engine.study.fronts import Point, front
from starr_engine.study.report.settings import Condition, Setting

Cost = Callable[[Setting], float]
"""What a setting costs; less is better, and above 0."""

SLACK: Final = 0.01
"""Accuracy below the baseline's that still counts as kept."""


def forwards(setting: Setting) -> float:
    """Mean forwards per problem."""
    return setting.nfe


def rows(setting: Setting) -> float:
    """Mean computed rows per problem."""
    return setting.rows


def seconds_per_token(setting: Setting) -> float:
    """1 / tokens per second; endless if nothing was generated."""
    return 1.0 / setting.tokens_per_s if setting.tokens_per_s else math.inf


def front_of(settings: Sequence[Setting], cost: Cost) -> list[Setting]:
    """The settings that no other beats in cost and accuracy, by rising cost."""
    points = [Point(cost=cost(each), level=each.accuracy) for each in settings]
    return [settings[at] for at in front(points)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """The speed-up of a setting as a product of three factors."""

    setting: Setting
    total: float
    """Seconds of the baseline / seconds of the setting."""

    cache: float
    """The same for its cache alone, with the baseline's remasking policy."""

    remasking: float
    """For its policy alone, with the baseline's cache."""

    interaction: float
    """``total / (cache * remasking)``: below 1 where the two save the same work."""


def split_speedups(condition: Condition) -> list[Shares]:
    """The shares of every setting that changes both cache and policy, the fastest first.

    Logarithms of the factors add up, so that a share is a length on a logarithmic axis.
    """
    base = condition.baseline
    if base is None:
        return []
    found = []
    for each in condition.settings:
        cache = condition.find(str(each.cache), str(base.remasking))
        policy = condition.find(str(base.cache), str(each.remasking))
        if cache is None or policy is None or each in (base, cache, policy):
            continue
        total, by_cache, by_policy = (
            base.seconds_per_problem / one.seconds_per_problem for one in (each, cache, policy)
        )
        found.append(
            Shares(
                setting=each,
                total=total,
                cache=by_cache,
                remasking=by_policy,
                interaction=total / (by_cache * by_policy),
            )
        )
    return sorted(found, key=lambda each: -each.total)


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetCurve:
    """The best accuracy that a group of settings reaches within a budget."""

    name: str
    budgets: tuple[float, ...]
    """Where it rises, and the end of the range."""

    accuracy: tuple[float, ...]
    """From each budget on."""

    area: float
    """Mean over the range, budgets spread evenly in their logarithm: 1 is everything solved at
    the least budget."""


def budget_curves(
    condition: Condition, cost: Cost, group: Callable[[Setting], str]
) -> list[BudgetCurve]:
    """The curve of every group, over the range of costs of all settings; the largest area first.

    A group that has no setting within a budget solves nothing there.
    """
    if not condition.settings:
        return []
    low = min(map(cost, condition.settings))
    high = max(map(cost, condition.settings))
    groups: dict[str, list[Setting]] = {}
    for each in condition.settings:
        groups.setdefault(group(each), []).append(each)
    curves = [_curve(name, each, cost, low, high) for name, each in groups.items()]
    return sorted(curves, key=lambda each: -each.area)


def _curve(
    name: str, settings: Sequence[Setting], cost: Cost, low: float, high: float
) -> BudgetCurve:
    best = front_of(settings, cost)
    budgets = [*map(cost, best), high]
    levels = [each.accuracy for each in best]
    if high > low:
        widths = [math.log(b / a) for a, b in itertools.pairwise(budgets)]
        area = math.fsum(w * each for w, each in zip(widths, levels, strict=True))
        area /= math.log(high / low)
    else:
        area = levels[-1]
    return BudgetCurve(name=name, budgets=tuple(budgets), accuracy=(*levels, levels[-1]), area=area)


def best_kept(condition: Condition) -> Setting | None:
    """The fastest setting whose accuracy is at most ``SLACK`` below the baseline's."""
    base = condition.baseline
    if base is None:
        return None
    kept = [each for each in condition.settings if each.accuracy >= base.accuracy - SLACK]
    return min(kept, key=lambda each: each.seconds_per_problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """One model at several lengths."""

    model: str
    axis: str
    """``new tokens`` or ``prompt tokens``."""

    points: tuple[tuple[float, Condition], ...]
    """Length and what was measured there, at least two, by rising length."""

    names: tuple[tuple[str, str], ...]
    """Cache and policy of the settings that were measured at every length."""


def scalings(conditions: Sequence[Condition]) -> list[Scaling]:
    """Conditions that differ in one length alone, put in a row."""
    found = []
    for axis in ("new tokens", "prompt tokens"):
        groups: dict[tuple[object, ...], list[Condition]] = {}
        for each in conditions:
            if axis == "prompt tokens" or each.max_tokens is not None:
                other = each.shots if axis == "new tokens" else each.max_tokens
                key = (
                    each.model,
                    each.block_length,
                    each.batch_size,
                    each.tasks,
                    each.other,
                    other,
                )
                groups.setdefault(key, []).append(each)
        for group in groups.values():
            points = {_length(each, axis): each for each in group}
            names = _common(list(points.values()))
            if len(points) > 1 and names:
                found.append(
                    Scaling(
                        model=group[0].model,
                        axis=axis,
                        points=tuple(sorted(points.items(), key=lambda pair: pair[0])),
                        names=names,
                    )
                )
    return found


def _length(condition: Condition, axis: str) -> float:
    if axis == "prompt tokens":
        return condition.prompt_tokens
    assert condition.max_tokens is not None
    return float(condition.max_tokens)


def _common(conditions: Sequence[Condition]) -> tuple[tuple[str, str], ...]:
    first, *others = conditions
    names = [(str(each.cache), str(each.remasking)) for each in first.settings]
    return tuple(name for name in names if all(each.find(*name) for each in others))
