"""The report of a study: one page that needs nothing else, Markdown, and CSV."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Final

from starr_engine.errors import ConfigError
from starr_engine.study.grid.results import CellResult, read_results
from starr_engine.study.report import figures, tables
from starr_engine.study.report.analysis import SLACK, best_kept, scalings, split_speedups
from starr_engine.study.report.settings import Condition, Setting, main_conditions, pool

PAGE: Final = "report.html"
COMMANDS: Final = "commands.txt"

_TEXT_COLUMNS: Final = (
    "cache", "remasking", "label", "front of", "budget of", "with", "model", "reason",
)  # fmt: skip

METHOD: Final = (
    "A cell is one setting on one task; a setting's numbers are over all tasks and seeds. Accuracy "
    "is the share of solved problems with Wilson's 95 % interval; of a file, whose rows every seed "
    "asks again, only the first seed enters intervals and tests. Where the scorer is agreement, "
    "solved is what equals the baseline's output token for token: nothing says what is right.",
    "p: exact McNemar test on the same problems, since answers are right or wrong, in pairs, and "
    "the problems on which two settings differ are few; after Holm over all settings of the "
    "model. Few problems see only large differences: a high p is no proof of equality.",
    "NFE counts all forwards of a request, refreshes included; TPF is unmasked tokens per forward; "
    "rows are token rows computed over all forwards; refreshes are the share of forwards that "
    "computed all live rows to reuse them.",
    "Tokens/s are generated tokens without EOS and what follows, per second of the whole cell, at "
    "the batch size beside it. Faster compares seconds for the same problems. Requests share no "
    "pages, and each cache meets one full batch before anything is timed.",
    "Flips: share of scored rows whose most probable token is another than without reuse, from "
    "probes of a quarter of the steps of eight problems of each cell, in a second, untimed run.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A drawing with what is said of it."""

    title: str
    svg: str
    caption: str
    table_title: str = ""
    table: Sequence[tables.Row] = ()
    is_open: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What the page says of one condition."""

    title: str
    findings: Sequence[str]
    figures: Sequence[Figure]
    tables: Mapping[str, Sequence[tables.Row]] = field(default_factory=dict)


def note_command(folder: Path, command: str, *, is_first: bool = False) -> None:
    """Remember a command that measures cells of a study.

    Args:
        folder: Of the study.
        command: As one would type it.
        is_first: Whether it starts a study, so that earlier ones are of no interest.
    """
    path = folder / COMMANDS
    known = path.read_text().splitlines() if path.exists() and not is_first else []
    if command not in known:
        path.write_text("".join(f"{line}\n" for line in (*known, command)))


def write_report(folder: Path) -> Path:
    """Write ``report.html``, ``report.md``, ``report.csv`` and ``cells.csv`` beside the results.

    Args:
        folder: Of a study, complete or still running.

    Returns:
        The page.

    Raises:
        ConfigError: If there are no results, they are broken, or matplotlib is missing.
    """
    figures.check_drawing()
    results = read_results(folder)
    noted = folder / COMMANDS
    commands = noted.read_text().splitlines() if noted.exists() else []
    command = f"starr-engine study --report-only --output {folder}"
    conditions = pool(results)
    parts = parts_of(conditions)
    table = [
        {"condition": each.title} | dict(row)
        for each in conditions
        for row in tables.settings_table(each)
    ]
    for name, text in {
        PAGE: render(results, parts, command, commands),
        "report.md": markdown(results, parts, command),
        "report.csv": tables.as_csv(table),
        "cells.csv": tables.as_csv(tables.cells_table(results)),
    }.items():
        _write(folder / name, text)
    return folder / PAGE


def parts_of(conditions: Sequence[Condition]) -> list[Part]:
    """The main condition of each model, then scaling, then what else was measured."""
    shown = main_conditions(conditions)
    parts = [_main_part(each) for each in shown]
    if scaled := [each for each in map(_scaling_figure, scalings(conditions)) if each]:
        parts.append(Part(title="Scaling with length", findings=(), figures=scaled))
    if rest := [each for each in conditions if each not in shown]:
        listed = {each.title: tables.settings_table(each) for each in rest}
        parts.append(Part(title="Other conditions", findings=(), figures=(), tables=listed))
    return parts


def _main_part(condition: Condition) -> Part:
    return Part(
        title=condition.title,
        findings=findings(condition),
        figures=[each for each in _figures(condition) if each.svg],
        tables={
            "All settings": tables.settings_table(condition),
            "Accuracy by task": tables.tasks_table(condition),
        },
    )


def _figures(condition: Condition) -> list[Figure]:
    many = len(condition.settings) > 1
    return [
        Figure(
            title="Accuracy against forwards, and against speed",
            svg=figures.pareto(condition),
            caption="Up is better; left is better in the left panel, right in the right one. "
            "Large marks are on the front: nothing is at least as good in both and better in one. "
            "Equal settings lie on one another; the heat maps below have them all.",
            table_title="Settings on a front",
            table=tables.front_table(condition),
            is_open=True,
        ),
        Figure(
            title="Where the speed-up comes from",
            svg=figures.speedup_shares(condition),
            caption=f"The {figures.MAX_BARS} fastest settings that change both cache and policy, "
            f"at batch {condition.batch_size}. "
            "Factors multiply, so their lengths add up on this axis: cache alone, remasking "
            "alone, and what is missing from, or beyond, their product. An interaction to the "
            "left means that the two save the same work.",
            table_title="All settings that change both",
            table=tables.shares_table(condition),
        ),
        Figure(
            title="Policy by cache",
            svg=figures.heat_maps(condition) if many else "",
            caption="A dash stands where a setting has no numbers, see below.",
        ),
        Figure(
            title="Accuracy under a budget",
            svg=figures.budgets(condition) if many else "",
            caption="The best accuracy of any setting of a group within a budget per problem. The "
            "area is the mean over budgets spread evenly in their logarithm; a group solves "
            "nothing below its cheapest setting.",
            table_title="Areas",
            table=tables.areas_table(condition),
        ),
    ]


def _scaling_figure(found: Any) -> Figure:
    shown = [
        {found.axis: f"{length:.0f}"} | dict(tables.setting_row(setting))
        for length, condition in found.points
        for cache, policy in found.names
        if (setting := condition.find(cache, policy)) is not None
    ]
    return Figure(
        title=f"{found.model}: cost over {found.axis}",
        svg=figures.scaling(found),
        caption="Both axes are logarithmic. Problems are the same at every length.",
        table_title="Numbers",
        table=shown,
    )


def findings(condition: Condition) -> list[str]:
    """What the numbers say, in sentences."""
    base, best = condition.baseline, best_kept(condition)
    if base is None or best is None:
        return ["The baseline has no numbers, so nothing is compared with it."]
    lines = [
        f"Baseline {base.name}: {_said(base)}. {base.num_problems} problems of "
        f"{', '.join(condition.tasks)}.",
    ]
    if best is base:
        lines.append(f"No setting within {SLACK:.0%} of its accuracy is faster.")
    else:
        assert best.compared is not None
        lines.append(
            f"Fastest within {SLACK:.0%} of its accuracy: {best.name}: {_said(best)}; "
            f"{best.compared.faster:.1f} times faster, {best.compared.fewer_forwards:.1f} times "
            f"fewer forwards, {best.compared.fewer_rows:.1f} times fewer rows, p = "
            f"{best.compared.p_value:.2g}; the cache is {best.label}."
        )
    for each in split_speedups(condition):
        if each.setting is best:
            lines.append(
                f"Of its speed-up the cache alone gives {each.cache:.1f}x, remasking alone "
                f"{each.remasking:.1f}x, and the interaction {each.interaction:.2f}x."
            )
    return lines


def _said(setting: Setting) -> str:
    low, high = setting.accuracy_interval
    return (
        f"accuracy {setting.accuracy:.1%} [{low:.1%}, {high:.1%}], NFE {setting.nfe:.2f}, "
        f"{setting.rows:.0f} rows, {setting.tokens_per_s:.0f} tokens/s at batch "
        f"{setting.batch_size}"
    )


def render(
    results: Sequence[CellResult], parts: Sequence[Part], command: str, commands: Sequence[str]
) -> str:
    """The page; nothing of it is loaded from elsewhere, and no script runs."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(
        _part("page.html")
    )
    shown = [
        {
            "title": part.title,
            "findings": part.findings,
            "figures": [
                {name: getattr(each, name) for name in Figure.__slots__} | {"svg": Markup(each.svg)}
                for each in part.figures
            ],
            "tables": part.tables,
        }
        for part in parts
    ]
    return template.render(
        style=Markup(_part("page.css")),
        facts=facts(results),
        parts=shown,
        failed=tables.failed_table(results),
        text_columns=_TEXT_COLUMNS,
        command=command,
        commands=commands,
        method=METHOD,
    )


def markdown(results: Sequence[CellResult], parts: Sequence[Part], command: str) -> str:
    """The same without figures."""
    lines = ["# Study", "", *(f"- {name}: {value}" for name, value in facts(results).items())]
    for part in parts:
        lines += ["", f"## {part.title}", "", *(f"- {line}" for line in part.findings)]
        for each in part.figures:
            if each.table:
                lines += ["", f"**{each.title}: {each.table_title}**", ""]
                lines += [tables.as_markdown(each.table)]
        for title, rows in part.tables.items():
            lines += ["", f"**{title}**", "", tables.as_markdown(rows)]
    if failed := tables.failed_table(results):
        lines += ["", "## Not run", "", tables.as_markdown(failed)]
    lines += ["", "## How it was measured", "", *(f"- {line}" for line in METHOD)]
    return "\n".join([*lines, "", f"`{command}`", ""])


def facts(results: Sequence[CellResult]) -> dict[str, str]:
    """Where and when the cells were measured; all of them, if several."""
    where = [each.environment for each in results]
    machine = (each.get("gpu") or each.get("cpu") for each in where)
    versions = (each.get("versions", {}) for each in where)
    commits = (
        f"{str(each.get('commit'))[:7]}{' with changes' if each.get('uncommitted_changes') else ''}"
        for each in where
    )
    days = sorted(str(each.get("date"))[:10] for each in where)
    return {
        "Cells": f"{sum(each.measured is not None for each in results)} of {len(results)}",
        "Problems of each task": _joined(each.cell.num_problems for each in results),
        "Machine": _joined(machine),
        "Threads": _joined(each.get("num_threads") for each in where),
        "torch": _joined(each.get("torch") for each in versions),
        "Commit": _joined(commits),
        "Date": _joined(dict.fromkeys((days[0], days[-1]))) if days else "",
    }


def _joined(values: Any) -> str:
    return ", ".join(dict.fromkeys(map(str, values)))


def _part(name: str) -> str:
    folder = resources.files("starr_engine.study.report")
    return folder.joinpath(name).read_text(encoding="utf-8")


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.partial")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error}") from error
