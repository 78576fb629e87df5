"""The numbers of a study as Markdown and CSV."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Mapping, Sequence

from starr_engine.study.grid.axes import NO_SHARING, Cell, typed
from starr_engine.study.grid.results import CellResult
from starr_engine.study.report.analysis import (
    budget_curves,
    forwards,
    front_of,
    rows,
    seconds_per_token,
    split_speedups,
)
from starr_engine.study.report.settings import Condition, Setting

Row = Mapping[str, str]
"""Heading to text; all rows of a table have the same headings."""


def setting_row(setting: Setting) -> Row:
    """What is shown of a setting: never tokens/s without accuracy, forwards and batch."""
    low, high = setting.accuracy_interval
    compared = setting.compared
    return {
        "cache": str(setting.cache),
        "remasking": str(setting.remasking),
        "accuracy, 95 %": f"{setting.accuracy:.1%} [{low:.1%}, {high:.1%}]",
        "p against baseline": f"{compared.p_value:.2g}" if compared else "",
        "same output": f"{compared.same_outputs:.1%}" if compared else "",
        "NFE": f"{setting.nfe:.2f}",
        "TPF": f"{setting.tpf:.2f}",
        "rows": f"{setting.rows:.0f}",
        "refreshes": f"{setting.refresh_share:.1%}",
        "flips": "" if setting.flip_rate is None else f"{setting.flip_rate:.2%}",
        "batch": str(setting.batch_size),
        "workers": str(setting.side_by_side),
        "tokens/s": f"{setting.tokens_per_s:.0f}",
        "faster": f"{compared.faster:.2f}x" if compared else "",
        "latency p50, p95": f"{setting.latency_p50_s:.2f} s, {setting.latency_p95_s:.2f} s",
        "KV": f"{setting.kv_bytes / 2**20:.1f} MiB",
        "label": setting.label,
    }


def settings_table(condition: Condition) -> list[Row]:
    """All settings, in the order of the grid."""
    return [setting_row(each) for each in condition.settings]


def front_table(condition: Condition) -> list[Row]:
    """Those that nothing beats, in forwards or in tokens/s."""
    kept = [
        (each, name)
        for name, cost in (("forwards", forwards), ("tokens/s", seconds_per_token))
        for each in front_of(condition.settings, cost)
    ]
    names: dict[str, list[str]] = {}
    for each, name in kept:
        names.setdefault(each.name, []).append(name)
    shown = {each.name: each for each, _ in kept}
    wanted = (
        "cache", "remasking", "accuracy, 95 %", "NFE", "TPF", "rows", "batch", "workers",
        "tokens/s",
    )  # fmt: skip
    found: list[Row] = []
    for name, each in shown.items():
        row = setting_row(each)
        found.append({"front of": ", ".join(names[name])} | {head: row[head] for head in wanted})
    return found


def shares_table(condition: Condition) -> list[Row]:
    """The factors of every setting that changes both."""
    return [
        {
            "cache": str(each.setting.cache),
            "remasking": str(each.setting.remasking),
            "together": f"{each.total:.2f}x",
            "cache alone": f"{each.cache:.2f}x",
            "remasking alone": f"{each.remasking:.2f}x",
            "interaction": f"{each.interaction:.2f}x",
            "accuracy": f"{each.setting.accuracy:.1%}",
            "NFE": f"{each.setting.nfe:.2f}",
            "batch": str(each.setting.batch_size),
        }
        for each in split_speedups(condition)
    ]


def areas_table(condition: Condition) -> list[Row]:
    """Areas under the curves of accuracy against a budget."""
    by_policy = budget_curves(condition, forwards, lambda each: each.remasking.name)
    by_cache = budget_curves(condition, rows, lambda each: each.cache.name)
    return [
        {"budget of": budget, "with": each.name, "area": f"{each.area:.3f}"}
        for budget, curves in (("forwards", by_policy), ("rows", by_cache))
        for each in curves
    ]


def tasks_table(condition: Condition) -> list[Row]:
    """Accuracy by task."""
    return [
        {"cache": str(each.cache), "remasking": str(each.remasking)}
        | {task: f"{each.by_task[task]:.1%}" for task in condition.tasks}
        for each in condition.settings
    ]


def failed_table(results: Sequence[CellResult]) -> list[Row]:
    """Cells without numbers; those of one reason together."""
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for each in results:
        if each.error is not None:
            key = (each.cell.model, str(each.cell.cache), each.error)
            reasons.setdefault(key, []).append(f"{each.cell.task.name} {each.cell.remasking}")
    return [
        {"model": model, "cache": cache, "cells": str(len(cells)), "reason": reason}
        for (model, cache, reason), cells in reasons.items()
    ]


def cells_table(results: Sequence[CellResult]) -> list[Row]:
    """Every cell with all its numbers, and the command that runs it again."""
    return [_cell_row(each) for each in results]


def _cell_row(result: CellResult) -> Row:
    cell, found, compared = result.cell, result.measured, result.compared
    plain: dict[str, object] = {
        "id": cell.id, "model": cell.model, "task": cell.task.name, "cache": cell.cache,
        "remasking": cell.remasking, "block_length": cell.block_length,
        "max_tokens": cell.max_tokens, "batch_size": cell.batch_size, "seed": cell.seed,
        "shots": cell.shots, "num_problems": cell.num_problems,
    }  # fmt: skip
    numbers: dict[str, object] = dict.fromkeys(
        (
            "label", "accuracy", "accuracy_low", "accuracy_high", "nfe", "tpf", "rows",
            "refresh_share", "tokens_per_s", "wall_s", "latency_p50_s", "latency_p95_s",
            "mean_batch", "side_by_side", "kv_bytes", "device_bytes", "prompt_tokens",
            "output_tokens", "flip_rate", "mean_kl", "gained", "lost", "p_value", "same_outputs",
            "fewer_forwards",
        ), "",
    )  # fmt: skip
    if found is not None:
        low, high = found.accuracy_interval
        numbers |= {
            "label": found.label, "accuracy": found.accuracy, "accuracy_low": low,
            "accuracy_high": high, "nfe": found.nfe, "tpf": found.tpf, "rows": found.rows,
            "refresh_share": found.refresh_share, "tokens_per_s": found.timing.tokens_per_s,
            "wall_s": found.timing.wall_s, "latency_p50_s": found.timing.latency_p50_s,
            "latency_p95_s": found.timing.latency_p95_s, "mean_batch": found.timing.mean_batch,
            "side_by_side": found.timing.side_by_side,
            "kv_bytes": found.memory.kv_bytes, "device_bytes": found.memory.device_bytes,
            "prompt_tokens": found.prompt_tokens, "output_tokens": found.output_tokens,
        }  # fmt: skip
        if found.drift is not None:
            numbers |= {name: found.drift[name] for name in ("flip_rate", "mean_kl")}
    if compared is not None:
        names = ("gained", "lost", "p_value", "same_outputs", "fewer_forwards")
        numbers |= {name: getattr(compared, name) for name in names}
    where = result.environment
    tail = {
        "error": result.error, "machine": where.get("gpu") or where.get("cpu"),
        "num_threads": where.get("num_threads"), "commit": where.get("commit"),
        "date": where.get("date"), "command": cell_command(cell),
    }  # fmt: skip
    return {name: _text(value) for name, value in (plain | numbers | tail).items()}


def cell_command(cell: Cell, output: str = "out/again") -> str:
    """The command that runs one cell again, into another folder."""
    words = ["starr-engine", "study", "--model", cell.model, "--task", str(cell.task), "--cache",
             str(cell.cache), "--remasking", str(cell.remasking)]  # fmt: skip
    numbers = {"--block-length": cell.block_length, "--max-tokens": cell.max_tokens,
               "--batch-size": cell.batch_size, "--seed": cell.seed, "--shots": cell.shots,
               "--limit": cell.num_problems}  # fmt: skip
    for flag, number in numbers.items():
        words += [] if number is None else [flag, str(number)]
    for flag, options in (("--engine", cell.engine), ("--sampling", cell.sampling)):
        for name, value in options.items():
            if flag == "--sampling" or (name, value) not in NO_SHARING.items():
                words += [flag, f"{name}={typed(value)}"]
    return shlex.join([*words, "--output", output])


def as_csv(table: Sequence[Row]) -> str:
    """A table as CSV; empty if it has no row."""
    file = io.StringIO()
    if table:
        writer = csv.DictWriter(file, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    return file.getvalue()


def as_markdown(table: Sequence[Row]) -> str:
    """A table as Markdown; empty if it has no row."""
    if not table:
        return ""
    heads = list(table[0])
    lines = [heads, ["---"] * len(heads), *([row[head] for head in heads] for row in table)]
    return "".join(f"| {' | '.join(map(_escaped, line))} |\n" for line in lines)


def _escaped(text: str) -> str:
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").split())


def _text(value: object) -> str:
    return "" if value is None else str(value)
