"""Cells put together: a setting over all tasks and seeds, and the settings that are compared."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from starr_engine.study.grid.axes import Cell, Choice
from starr_engine.study.grid.results import CellResult, Measurement
from starr_engine.study.grid.significance import holm, mcnemar, ratio_interval
from starr_engine.study.intervals import Interval, mean, wilson_interval


@dataclass(frozen=True, slots=True, kw_only=True)
class AgainstBaseline:
    """A setting against the baseline, on the same problems."""

    gained: int
    lost: int
    """Problems that only one of the two solves; see ``grid.results.Comparison``."""

    p_value: float
    """Exact McNemar test of accuracy, after Holm over all settings of the condition."""

    same_outputs: float
    """Share of problems with identical token ids."""

    fewer_forwards: float
    fewer_forwards_interval: Interval

    fewer_rows: float
    """Computed rows of the baseline / those of the setting."""

    faster: float
    """Seconds of the baseline / seconds of the setting, for the same problems. Unlike a ratio of
    tokens/s it does not reward longer answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A cache with a remasking policy on all tasks of its condition."""

    cache: Choice
    remasking: Choice
    batch_size: int

    label: str
    num_problems: int

    accuracy: float
    """Share of solved problems, all tasks and seeds together."""

    accuracy_interval: Interval
    nfe: float
    tpf: float
    rows: float
    refresh_share: float
    """These four as in ``Measurement``."""

    tokens_per_s: float
    """Generated tokens of all tasks / seconds of all tasks."""

    seconds_per_problem: float
    """Seconds of all tasks / problems: what a problem costs in a full batch."""

    latency_p50_s: float
    """Mean over cells of their medians."""

    latency_p95_s: float
    """The highest of any cell."""

    kv_bytes: int
    """Most of any cell."""

    flip_rate: float | None
    """Drift: share of probed rows with another most probable token; None where nothing was."""

    by_task: dict[str, float]
    """Accuracy of each task."""

    side_by_side: int = 1
    """Most workers that measured at once; above 1, times are not those of a cell alone."""

    compared: AgainstBaseline | None = None

    @property
    def name(self) -> str:
        """Cache and policy."""
        return f"{self.cache}, {self.remasking}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Settings that differ in cache and remasking alone."""

    model: str
    block_length: int | None
    max_tokens: int | None
    batch_size: int
    shots: int

    other: str
    """Number of problems, engine and sampling, as JSON: equal where they are."""

    title: str
    """The model, and whatever is not left to it."""

    settings: tuple[Setting, ...]
    """Those that have numbers for every task and seed, in the order of the grid."""

    baseline: Setting | None
    """None if it has no numbers."""

    tasks: tuple[str, ...]
    prompt_tokens: float
    """Mean length of the prompts."""

    @property
    def caches(self) -> list[str]:
        """In the order of the grid."""
        return list(dict.fromkeys(str(each.cache) for each in self.settings))

    @property
    def policies(self) -> list[str]:
        """In the order of the grid."""
        return list(dict.fromkeys(str(each.remasking) for each in self.settings))

    def find(self, cache: str, remasking: str) -> Setting | None:
        """The setting of two names, if it has numbers."""
        for each in self.settings:
            if (str(each.cache), str(each.remasking)) == (cache, remasking):
                return each
        return None


_Run = tuple[CellResult, Measurement]
"""A cell that has numbers, with them."""


def pool(results: Sequence[CellResult]) -> list[Condition]:
    """All conditions of a study; a setting that lacks a task or a seed is left out of its own."""
    groups: dict[str, list[CellResult]] = {}
    for each in results:
        groups.setdefault(_condition_key(each.cell), []).append(each)
    made = (_condition(group) for group in groups.values())
    return [each for each in made if each.settings]


def without_begun_tasks(results: Sequence[CellResult]) -> list[CellResult]:
    """The results of a study that is still running, without the tasks that it is in the middle of.

    A setting that lacks a task is in no figure, so that the task which was begun last would hide
    all settings that have not come to it.
    """
    counts: dict[str, dict[str, int]] = {}
    for each in results:
        of_task = counts.setdefault(_condition_key(each.cell), {})
        of_task[_task_key(each.cell)] = of_task.get(_task_key(each.cell), 0) + 1
    return [
        each
        for each in results
        if (of_task := counts[_condition_key(each.cell)])[_task_key(each.cell)]
        == max(of_task.values())
    ]


def main_conditions(conditions: Iterable[Condition]) -> list[Condition]:
    """For each model the condition with most settings: the one that figures are drawn of."""
    best: dict[str, Condition] = {}
    for each in conditions:
        known = best.get(each.model)
        if known is None or len(each.settings) > len(known.settings):
            best[each.model] = each
    return list(best.values())


def _condition_key(cell: Cell) -> str:
    what = [cell.model, cell.block_length, cell.max_tokens, cell.batch_size, cell.shots]
    return json.dumps(what) + _other(cell)


def _task_key(cell: Cell) -> str:
    return json.dumps([cell.task.name, cell.task.digest, cell.seed])


def _other(cell: Cell) -> str:
    what = [cell.num_problems, dict(cell.engine), dict(cell.sampling)]
    return json.dumps(what, sort_keys=True)


def _condition(results: Sequence[CellResult]) -> Condition:
    cell = results[0].cell
    by_setting: dict[tuple[str, str], list[_Run]] = {}
    wanted: dict[tuple[str, str, int], None] = {}  # task with its content, and seed, in order
    for each in results:
        key = (str(each.cell.cache), str(each.cell.remasking))
        wanted[each.cell.task.name, each.cell.task.digest, each.cell.seed] = None
        runs = by_setting.setdefault(key, [])
        if each.measured is not None:
            runs.append((each, each.measured))
    whole = {key: runs for key, runs in by_setting.items() if len(runs) == len(wanted)}
    ids = {result.cell.id: key for key, runs in whole.items() for result, _ in runs}
    base = ids.get(results[0].baseline)
    settings = {key: _setting(runs) for key, runs in whole.items()}
    if base is not None:
        settings = _compare(settings, whole, base)
    runs = next(iter(whole.values()), [])
    return Condition(
        model=cell.model,
        block_length=cell.block_length,
        max_tokens=cell.max_tokens,
        batch_size=cell.batch_size,
        shots=cell.shots,
        other=_other(cell),
        title=_title(cell),
        settings=tuple(settings.values()),
        baseline=settings.get(base) if base is not None else None,
        tasks=tuple(dict.fromkeys(task for task, *_ in wanted)),
        prompt_tokens=mean(found.prompt_tokens for _, found in runs),
    )


def _title(cell: Cell) -> str:
    parts = [cell.model]
    parts += [f"block length {cell.block_length}"] if cell.block_length else []
    parts += [f"{cell.max_tokens} new tokens"] if cell.max_tokens else []
    parts += [f"{cell.shots} shots"] if cell.shots else []
    parts += [f"{name}={value}" for name, value in cell.sampling.items()]
    return ", ".join([*parts, f"batch {cell.batch_size}"])


def _setting(runs: Sequence[_Run]) -> Setting:
    cell = runs[0][0].cell
    found = [measured for _, measured in runs]
    forwards = sum(sum(each.forwards) for each in found)
    solved = "".join(each.solved for each in found)
    wall_s = sum(each.timing.wall_s for each in found)
    accuracy = solved.count("1") / len(solved)
    by_task: dict[str, list[float]] = {}
    for result, each in runs:
        by_task.setdefault(result.cell.task.name, []).append(each.accuracy)
    probed = [each.drift for each in found if each.drift and each.drift["rows_compared"]]
    flips = [(float(each["flip_rate"] or 0), float(each["rows_compared"] or 0)) for each in probed]
    return Setting(
        cache=cell.cache,
        remasking=cell.remasking,
        batch_size=cell.batch_size,
        label=found[0].label,
        num_problems=len(solved),
        accuracy=accuracy,
        accuracy_interval=wilson_interval(accuracy, sum(map(len, _independent(runs)))),
        nfe=forwards / len(solved),
        tpf=sum(each.tpf * sum(each.forwards) for each in found) / forwards,
        rows=sum(each.rows * len(each.solved) for each in found) / len(solved),
        refresh_share=sum(each.refresh_share * sum(each.forwards) for each in found) / forwards,
        tokens_per_s=sum(each.output_tokens * len(each.solved) for each in found) / wall_s,
        seconds_per_problem=wall_s / len(solved),
        latency_p50_s=mean(each.timing.latency_p50_s for each in found),
        latency_p95_s=max(each.timing.latency_p95_s for each in found),
        kv_bytes=max(each.memory.kv_bytes for each in found),
        flip_rate=sum(f * n for f, n in flips) / sum(n for _, n in flips) if flips else None,
        by_task={task: mean(values) for task, values in by_task.items()},
        side_by_side=max(each.timing.side_by_side for each in found),
    )


def _independent(runs: Sequence[_Run]) -> list[str]:
    """Outcomes that intervals and tests count: another seed asks a file's rows again."""
    seen: set[str] = set()
    counted = []
    for result, measured in runs:
        task = result.cell.task
        if task.is_set or task.name not in seen:
            counted.append(measured.solved)
        seen.add(task.name)
    return counted


def _compare(
    settings: dict[tuple[str, str], Setting],
    runs: dict[tuple[str, str], list[_Run]],
    base: tuple[str, str],
) -> dict[tuple[str, str], Setting]:
    base_answers = "".join(_independent(runs[base]))
    base_forwards = [count for _, each in runs[base] for count in each.forwards]
    base_outputs = [text for _, each in runs[base] for text in each.outputs]
    against: dict[tuple[str, str], AgainstBaseline] = {}
    for key, own in runs.items():
        pairs = list(zip("".join(_independent(own)), base_answers, strict=True))
        gained, lost = pairs.count(("1", "0")), pairs.count(("0", "1"))
        forwards = [count for _, each in own for count in each.forwards]
        outputs = [text for _, each in own for text in each.outputs]
        same = [a == b for a, b in zip(outputs, base_outputs, strict=True)]
        against[key] = AgainstBaseline(
            gained=gained,
            lost=lost,
            p_value=mcnemar(gained, lost),
            same_outputs=sum(same) / len(same),
            fewer_forwards=sum(base_forwards) / sum(forwards),
            fewer_forwards_interval=ratio_interval(base_forwards, forwards),
            fewer_rows=settings[base].rows / settings[key].rows,
            faster=settings[base].seconds_per_problem / settings[key].seconds_per_problem,
        )
    others = [key for key in runs if key != base]  # the baseline is compared with nothing
    adjusted = holm([against[key].p_value for key in others])
    for key, p_value in zip(others, adjusted, strict=True):
        against[key] = replace(against[key], p_value=p_value)
    return {key: replace(each, compared=against[key]) for key, each in settings.items()}
