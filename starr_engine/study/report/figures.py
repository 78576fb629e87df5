"""The figures, as SVG; colours that colour-blind readers can tell apart."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from starr_engine.errors import ConfigError
from starr_engine.study.report.analysis import (
    Cost,
    Scaling,
    Shares,
    budget_curves,
    forwards,
    front_of,
    rows,
    seconds_per_token,
    split_speedups,
)
from starr_engine.study.report.settings import Condition, Setting

COLORS: Final = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#7f7f7f", "#000000",
)  # fmt: skip
"""Okabe and Ito's, without their yellow, which white paper swallows."""

MARKERS: Final = "osD^vPX<>hp*"
INK: Final = "#1b1d1f"
MUTED: Final = "#585d63"
GRID: Final = "#e3e3dd"
MAX_BARS: Final = 16
WIDTH: Final = 10.4
"""Inches, at which the page shows figures in full size."""


def check_drawing() -> None:
    """Check that figures can be drawn.

    Raises:
        ConfigError: If matplotlib is missing.
    """
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(
            'the figures of a report need matplotlib: pip install "starr-engine[study]"'
        ) from error


def pareto(condition: Condition) -> str:
    """Accuracy against forwards and against tokens/s; a colour is a cache, a shape a policy."""
    with _figure("pareto", WIDTH, 4.6) as (figure, drawn):
        left, right = figure.subplots(1, 2, sharey=True)
        for axis, cost, show, label in (
            (left, forwards, forwards, "forwards per problem (fewer is better)"),
            (right, seconds_per_token, lambda each: each.tokens_per_s,
             f"tokens/s at batch {condition.batch_size} (more is better)"),
        ):  # fmt: skip
            _scatter(axis, condition, cost, show)
            axis.set_xscale("log")
            _plain_ticks(axis.xaxis)
            axis.set_xlabel(label)
        left.set_ylabel("accuracy")
        left.yaxis.set_major_formatter(_percent)
        low, high = left.get_ylim()
        _cap_at_one(left)
        left.set_ylim(low, high)
        _legends(figure, condition)
    return drawn()


def _scatter(axis: Any, condition: Condition, cost: Cost, show: Cost) -> None:
    color, marker = _colors(condition.caches), _markers(condition.policies)
    best = front_of(condition.settings, cost)
    for each in condition.settings:
        is_best = each in best
        axis.plot(
            show(each), each.accuracy, marker[str(each.remasking)], ms=8 if is_best else 6,
            color=color[str(each.cache)], mec=INK if is_best else "white",
            mew=1.2 if is_best else 0.5, zorder=4 if is_best else 3, alpha=1 if is_best else 0.85,
        )  # fmt: skip
        if is_best:
            low, high = each.accuracy_interval
            axis.plot([show(each)] * 2, [low, high], color=INK, lw=0.8, zorder=2)
    line = sorted((show(each), each.accuracy) for each in best)
    axis.plot(*zip(*line, strict=True), color=INK, lw=1, ls=(0, (4, 2)), zorder=2)
    if condition.baseline is not None:
        base = condition.baseline
        axis.plot(show(base), base.accuracy, "o", ms=15, mfc="none", mec=MUTED, mew=1, zorder=2)


def _legends(figure: Any, condition: Condition) -> None:
    from matplotlib.lines import Line2D

    def handles(style: Mapping[str, str], make: Callable[[str], dict[str, Any]]) -> list[Any]:
        return [Line2D([], [], ls="", ms=7, label=name, **make(value))
                for name, value in style.items()]  # fmt: skip

    caches = handles(_colors(condition.caches), lambda value: {"marker": "o", "color": value})
    policies = handles(
        _markers(condition.policies), lambda value: {"marker": value, "color": MUTED}
    )
    marks = [
        Line2D([], [], ls=(0, (4, 2)), color=INK, lw=1, label="front, with 95 % intervals"),
        Line2D([], [], ls="", marker="o", ms=11, mfc="none", mec=MUTED, label="baseline"),
    ]
    figure.legend(
        handles=[_heading("cache"), *caches, _heading("remasking"), *policies, *marks],
        loc="outside right upper", frameon=False, fontsize=8, labelspacing=0.35,
    )  # fmt: skip


def _heading(text: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], ls="", label=rf"$\bf{{{text}}}$")


def speedup_shares(condition: Condition) -> str:
    """The fastest settings' speed-up as bars of three parts on a logarithmic axis."""
    shares = split_speedups(condition)[:MAX_BARS]
    if not shares:
        return ""
    with _figure("shares", WIDTH, 1.1 + 0.29 * len(shares)) as (figure, drawn):
        axis = figure.subplots()
        for at, each in enumerate(shares):
            _bar(axis, at, each)
        axis.set_yticks(range(len(shares)), [each.setting.name for each in shares])
        axis.invert_yaxis()
        axis.axvline(0, color=INK, lw=0.8)
        reach = max(abs(x) for x in axis.get_xlim())
        step = max(1, math.ceil(reach / 8))
        low, high = axis.get_xlim()
        ticks = [x for x in range(-20, 21) if x % step == 0 and low <= x <= high]
        axis.set_xticks(ticks, [f"{2.0**x:g}x" for x in ticks])
        axis.set_xlim(low, high + 0.16 * (high - low))
        axis.grid(axis="y", visible=False)
        axis.set_xlabel("seconds of the baseline / seconds of the setting, same problems")
        figure.legend(
            *axis.get_legend_handles_labels(), loc="outside upper left", ncols=4, frameon=False
        )
    return drawn()


def _bar(axis: Any, at: int, each: Shares) -> None:
    """Gains stack to the right of 1x, losses to the left."""
    parts = (("cache", each.cache), ("remasking", each.remasking), ("both", each.interaction))
    reach = {1: 0.0, -1: 0.0}
    for (name, factor), color, hatch in zip(parts, COLORS, ("", "", "////"), strict=False):
        length = math.log2(factor)
        side = 1 if length >= 0 else -1
        label = {"cache": "cache alone", "remasking": "remasking alone", "both": "interaction"}
        axis.barh(
            at, length, left=reach[side], color=color, height=0.66, hatch=hatch, ec="white", lw=0.6,
            label=label[name] if at == 0 else None,
        )  # fmt: skip
        reach[side] += length
    total = math.log2(each.total)
    axis.plot([total, total], [at - 0.4, at + 0.4], color=INK, lw=2,
              label="both together" if at == 0 else None)  # fmt: skip
    axis.annotate(
        f"{each.total:.1f}x, accuracy {each.setting.accuracy:.1%}, NFE {each.setting.nfe:.1f}",
        (max(reach[1], total), at), xytext=(6, 0), textcoords="offset points", va="center",
        fontsize=7.5, color=INK,
    )  # fmt: skip


def heat_maps(condition: Condition) -> str:
    """Policy by cache: accuracy, forwards and speed-up."""
    caches, policies = condition.caches, condition.policies
    height = 1.2 + 0.27 * len(policies) + 0.06 * max(map(len, caches))
    panels: list[tuple[str, Callable[[Setting], Any], str]] = [
        ("accuracy, %", lambda each: 100 * each.accuracy, "{:.3g}"),
        ("forwards per problem", lambda each: each.nfe, "{:.1f}"),
    ]
    if condition.baseline is not None:
        title = f"times faster, batch {condition.batch_size}"
        panels += [(title, lambda each: each.compared and each.compared.faster, "{:.1f}")]
    with _figure("heat", WIDTH, height) as (figure, drawn):
        axes = figure.subplots(1, len(panels), sharey=True)
        for axis, (title, value, form) in zip(axes, panels, strict=True):
            grid = [
                [None if (one := condition.find(c, p)) is None else value(one) for c in caches]
                for p in policies
            ]
            # Colours of accuracy span 20 points at least, so that noise does not look like loss.
            is_accuracy = title.startswith("accuracy")
            _heat(axis, grid, form, is_log=not is_accuracy, least_span=20 * is_accuracy)
            axis.set_title(title, fontsize=9)
            axis.set_xticks(range(len(caches)), caches, rotation=50, ha="right",
                            rotation_mode="anchor")  # fmt: skip
            axis.set_yticks(range(len(policies)), policies)
    return drawn()


def _heat(
    axis: Any, grid: list[list[float | None]], form: str, *, is_log: bool, least_span: float
) -> None:
    import numpy as np
    from matplotlib import colormaps

    values = np.array(grid, np.float64)  # None becomes NaN
    shown = np.log(values) if is_log else values
    high = np.nanmax(shown)
    low = min(np.nanmin(shown), high - least_span)
    colors = colormaps["cividis"]
    axis.imshow(shown, cmap=colors, vmin=low, vmax=high + 1e-9, aspect="auto")
    for (y, x), value in np.ndenumerate(values):
        is_dark = not math.isnan(value) and (shown[y, x] - low) / (high - low + 1e-9) < 0.55
        text = "-" if math.isnan(value) else form.format(value)
        axis.text(x, y, text, ha="center", va="center", fontsize=7,
                  color="white" if is_dark else INK)  # fmt: skip
    axis.grid(visible=False)
    axis.tick_params(length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)


def budgets(condition: Condition) -> str:
    """The best accuracy within a budget of forwards, by policy; and of rows, by cache."""
    panels: tuple[tuple[str, Cost, Callable[[Setting], str], str], ...] = (
        ("by policy, any cache", forwards, lambda each: each.remasking.name,
         "most forwards per problem"),
        ("by cache, any policy", rows, lambda each: each.cache.name,
         "most rows computed per problem"),
    )  # fmt: skip
    with _figure("budgets", WIDTH, 5.0) as (figure, drawn):
        for axis, (title, cost, group, label) in zip(
            figure.subplots(1, 2, sharey=True), panels, strict=True
        ):
            curves = budget_curves(condition, cost, group)
            color = _colors(sorted(each.name for each in curves))
            for at, each in enumerate(curves):
                xs, ys = [each.budgets[0], *each.budgets], [0.0, *each.accuracy]
                axis.step(xs, ys, where="post", color=color[each.name], lw=1.8,
                          ls=("-", "--", ":", "-.")[at % 4],
                          label=f"{each.name}: area {each.area:.3f}")  # fmt: skip
            axis.set_xscale("log")
            _plain_ticks(axis.xaxis)
            axis.yaxis.set_major_formatter(_percent)
            axis.set_xlabel(label)
            axis.set_title(title, fontsize=9)
            axis.legend(frameon=False, fontsize=8, ncols=2, loc="upper center",
                        bbox_to_anchor=(0.5, -0.16))  # fmt: skip
            lowest = min(each.accuracy[0] for each in curves)
            axis.set_ylim(max(0.0, lowest - 0.15), 1.02)
            _cap_at_one(axis)
        figure.axes[0].set_ylabel("best accuracy within the budget")
    return drawn()


def scaling(found: Scaling) -> str:
    """Rows and seconds per problem over a length, a panel each; a line is a setting."""
    with _figure("scaling", WIDTH, 4.2) as (figure, drawn):
        axes = figure.subplots(1, 2)
        caches = list(dict.fromkeys(cache for cache, _ in found.names))
        policies = list(dict.fromkeys(policy for _, policy in found.names))
        color, marker = _colors(caches), _markers(policies)
        for axis, value, label in (
            (axes[0], rows, "rows computed per problem"),
            (axes[1], lambda each: each.seconds_per_problem,
             f"seconds per problem, batch {found.points[0][1].batch_size}"),
        ):  # fmt: skip
            for cache, policy in found.names:
                settings = [(x, condition.find(cache, policy)) for x, condition in found.points]
                points = [(x, value(each)) for x, each in settings if each is not None]
                axis.plot(*zip(*points, strict=True), marker[policy], ls="-", lw=1.4, ms=5,
                          color=color[cache], label=f"{cache}, {policy}")  # fmt: skip
            axis.set_yscale("log")
            axis.set_xscale("log", base=2)
            _plain_ticks(axis.xaxis, [x for x, _ in found.points])
            _plain_ticks(axis.yaxis)
            axis.set_xlabel(found.axis)
            axis.set_title(label, fontsize=9)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8)
    return drawn()


def _colors(names: Sequence[str]) -> dict[str, str]:
    return {name: COLORS[at % len(COLORS)] for at, name in enumerate(names)}


def _markers(names: Sequence[str]) -> dict[str, str]:
    return {name: MARKERS[at % len(MARKERS)] for at, name in enumerate(names)}


def _percent(value: float, position: int | None = None) -> str:
    return f"{value:.0%}" if abs(value - round(value, 2)) < 1e-9 else f"{value:.1%}"


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _cap_at_one(axis: Any) -> None:
    """No tick above 100 %, where the axis leaves room for marks."""
    axis.set_yticks([tick for tick in axis.get_yticks() if tick <= 1.0 + 1e-9])


def _plain_ticks(axis: Any, at: Sequence[float] = ()) -> None:
    """Plain numbers at the places given, or at 1, 2 and 5 of each power of ten."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(FixedLocator(at) if at else LogLocator(10, (1.0, 2.0, 5.0)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: _plain(value)))


@contextmanager
def _figure(name: str, width: float, height: float) -> Iterator[tuple[Any, Callable[[], str]]]:
    """A figure without global state, and what gives its SVG."""
    import matplotlib
    from matplotlib.figure import Figure

    style: Any = {
        "svg.hashsalt": name,  # ids that do not depend on the clock
        "svg.fonttype": "path",  # the same everywhere, whatever fonts there are
        "font.size": 9, "axes.grid": True, "grid.color": GRID, "axes.edgecolor": "#b9b9b2",
        "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
        "text.color": INK, "axes.labelcolor": INK, "xtick.color": MUTED, "ytick.color": MUTED,
        "xtick.labelcolor": INK, "ytick.labelcolor": INK, "hatch.linewidth": 0.8,
    }  # fmt: skip
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")

        def drawn() -> str:
            with matplotlib.rc_context(style):
                file = io.StringIO()
                figure.savefig(file, format="svg", metadata={"Date": None}, transparent=True)
            text = file.getvalue()
            return text[text.index("<svg") :]

        yield figure, drawn
