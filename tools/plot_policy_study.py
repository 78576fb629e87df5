"""Draw agreement and accuracy against forwards from the committed policy study.

Needs matplotlib (the extra ``study``).

    python -m tools.plot_policy_study [--result FILE] [--output docs/images/policy_study.svg]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator, MultipleLocator, NullLocator

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "policy_study.json"
OUTPUT = ROOT / "docs" / "images" / "policy_study.svg"

STARR_COLOR = "#c0392b"
COLORS = ("#34495e", "#2980b9", "#27ae60", "#8e44ad", "#d68910", "#7f8c8d", "#16a085", "#a04000")
MARKERS = "osD^vPX<>"
TICKS = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0)
"""Within each power of ten."""


def draw(result: Mapping[str, Any], output: Path) -> None:
    """Two panels over one axis of forwards; every curve is a policy with one argument swept."""
    # Without ids from the clock, so that an unchanged result gives an unchanged file.
    plt.rcParams.update({"svg.hashsalt": "policy_study", "font.size": 9, "svg.fonttype": "path"})
    figure, axes = plt.subplots(1, 2, figsize=(9.0, 3.8), sharex=True, layout="constrained")
    panels = (("agreement", "agreement with one token per step"), ("accuracy", "accuracy"))
    for axis, (measure, title) in zip(axes, panels, strict=True):
        _curves(axis, result, measure)
        _points(axis, result, measure)
        axis.set_title(title)
        axis.set_xlabel("forwards per request (NFE), logarithmic")
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=TICKS))
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.xaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_locator(MultipleLocator(0.05))
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axis.grid(alpha=0.25)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, metadata={"Date": None} if output.suffix == ".svg" else None)
    plt.close(figure)


def _curves(axis: Any, result: Mapping[str, Any], measure: str) -> None:
    curves: dict[str, list[Mapping[str, Any]]] = {}
    for row in result["rows"]:
        if row["kind"] == "curve":
            curves.setdefault(row["curve"], []).append(row["overall"])
    rivals = [name for name in curves if name != "starr"]
    for name, points in curves.items():
        at = rivals.index(name) if name in rivals else -1
        color = STARR_COLOR if at < 0 else COLORS[at % len(COLORS)]
        ordered = sorted(points, key=lambda each: each["nfe"])
        axis.plot(
            [each["nfe"] for each in ordered],
            [each[measure] for each in ordered],
            color=color,
            marker=MARKERS[at + 1] if at + 1 < len(MARKERS) else ".",
            markersize=3.5,
            linewidth=2.0 if at < 0 else 1.1,
            zorder=3 if at < 0 else 2,
            label=name,
        )


def _points(axis: Any, result: Mapping[str, Any], measure: str) -> None:
    for row in result["rows"]:
        if not row["name"].startswith("starr") or row["kind"] != "table":
            continue
        each = row["overall"]
        low, high = each[f"{measure}_interval"]
        axis.errorbar(
            each["nfe"],
            each[measure],
            yerr=[[each[measure] - low], [high - each[measure]]],
            fmt="*" if "calibrated" in row["name"] else "p",
            color=STARR_COLOR,
            markersize=10 if "calibrated" in row["name"] else 7,
            capsize=2,
            linewidth=0.8,
            zorder=4,
            label=f"{row['name']} (95 %)",
        )


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--output", type=Path, default=OUTPUT, help=".svg or .png")
    args = parser.parse_args()
    draw(json.loads(args.result.read_text()), args.output)


if __name__ == "__main__":
    main()
