"""What calibration found: the file that it writes and the table that it prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from starr_engine.params import ArgValue
from starr_engine.study.calibration.outcomes import Goal, Summary
from starr_engine.study.policy_file import policy_record

ONE_TOKEN = "one token per step"
DEFAULTS = "defaults"
FRONT = "front"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A setting, on the prompts that chose it and on those that did not."""

    name: str
    """``one token per step``, ``defaults`` or ``front``."""

    args: Mapping[str, ArgValue]
    search: Summary
    held_out: Summary
    is_chosen: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationReport:
    """The outcome of a calibration."""

    policy: str
    goal: Goal

    args: Mapping[str, ArgValue]
    """All arguments of the chosen setting, fixed ones and defaults included."""

    rows: Sequence[Row]
    """One token per step; the policy's defaults where it has them; the front by rising cost."""

    how: Mapping[str, object]
    """Prompts, decoding, engine, search, space and environment, as the file has them."""

    @property
    def chosen(self) -> Row:
        """The row of :attr:`args`."""
        return next(row for row in self.rows if row.is_chosen)

    @property
    def holds(self) -> bool:
        """Whether the chosen setting reaches the goal on the held-out prompts too."""
        return self.chosen.held_out.level(self.goal.measure) >= self.goal.least

    @property
    def forwards_saved(self) -> float:
        """Times as many forwards as the chosen setting takes one token per step, held out."""
        return self.rows[0].held_out.nfe / self.chosen.held_out.nfe


def as_file(report: CalibrationReport) -> dict[str, Any]:
    """The content of the policy file."""
    how = {
        "goal": asdict(report.goal),
        "holds_on_held_out_prompts": report.holds,
        "speedup_in_forwards": report.forwards_saved,
        "rows": [asdict(row) for row in report.rows],
        **report.how,
    }
    return policy_record(report.policy, report.args, how)


def as_text(report: CalibrationReport) -> str:
    """A short table for people; numbers are of the held-out prompts unless they say otherwise."""
    measure = report.goal.measure
    what = "accuracy" if measure == "accuracy" else f"agreement ({measure})"
    lines = [
        f"{'':2}{'setting':20}{'NFE':>7}{'speed-up':>10}{'TPF':>7}   {what + ', 95 %':28}search",
    ]
    base = report.rows[0].held_out.nfe
    for row in report.rows:
        low, high = row.held_out.level_interval(measure)
        level = f"{row.held_out.level(measure):.3f} [{low:.3f}, {high:.3f}]"
        lines.append(
            f"{'*' if row.is_chosen else ' ':2}{row.name:20}{row.held_out.nfe:>7.2f}"
            f"{base / row.held_out.nfe:>9.2f}x{row.held_out.tpf:>7.2f}   {level:28}"
            f"{row.search.level(measure):.3f}"
        )
    chosen = report.chosen
    args = " ".join(f"{name}={value}" for name, value in sorted(report.args.items()))
    lines.append(f"* {report.policy} {args}")
    if not report.holds:
        low, high = chosen.held_out.level_interval(measure)
        lines.append(
            f"note: on the held-out prompts it reaches {chosen.held_out.level(measure):.3f} "
            f"[{low:.3f}, {high:.3f}], below the required {report.goal.least:g}. What is chosen "
            "for its level on some prompts falls back on others: ask for more than you need, or "
            "give more prompts."
        )
    return "\n".join(lines)
