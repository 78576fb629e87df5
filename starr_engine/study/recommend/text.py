"""A recommendation for people, at a terminal of 100 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Final

from starr_engine.study.grid.measure import EXACT
from starr_engine.study.grid.results import Measurement
from starr_engine.study.intervals import Interval
from starr_engine.study.recommend.candidates import BASELINE
from starr_engine.study.recommend.choose import TIE, Recommendation
from starr_engine.study.recommend.commands import as_lines, commands_for
from starr_engine.study.recommend.goal import Goal, Verdict, prompts_to_be_sure

WIDTH: Final = 100
_INDENT: Final = 11

_MARKS: Final = {
    "surely within": " ", "within": "?", "outside": "x", "surely outside": "x",
}  # fmt: skip


def as_text(found: Recommendation) -> str:
    """The table of the finalists, the recommendation with its evidence, and the commands."""
    parts = ["\n".join(_asked(found)), "\n".join(_table(found))]
    if found.chosen is None:
        parts.append("\n".join(_wrapped("none", why_nothing_fits(found))))
    else:
        parts += ["\n".join(_evidence(found, found.chosen)), _commands(found, found.chosen)]
    return "\n\n".join(parts)


def measure_name(found: Recommendation) -> str:
    """What is counted: accuracy, or agreement where nothing says what is right."""
    return "agreement" if found.search.template.task.scorer == "agreement" else "accuracy"


def limit_text(goal: Goal, name: str) -> str:
    """The limit in words."""
    sure = "surely " if goal.needs_certainty else ""
    if goal.most_loss is not None:
        return f"{name} {sure}at most {100 * goal.most_loss:g} points below the baseline's"
    assert goal.least_accuracy is not None
    return f"{name} {sure}at least {100 * goal.least_accuracy:g} %"


def why_nothing_fits(found: Recommendation) -> str:
    """Why there is no recommendation, and what came nearest."""
    goal, name = found.search.goal, measure_name(found)
    limit = limit_text(goal, name)
    base = found.judged.base
    nearest = found.nearest
    if nearest is None:
        slower = bool(found.judged.verdicts)
        reason = "every setting within the limit is slower than the baseline" if slower else (
            "no setting could run"
        )  # fmt: skip
        return f"no setting to recommend ({limit}): {reason}"
    said = (
        f"no setting is within the limit ({limit}). Nearest: {nearest.candidate}, with "
        f"{100 * nearest.measured.accuracy:.1f} % {name}, {_loss(nearest)} points below the "
        f"baseline, {nearest.faster:.1f}x as fast"
    )
    least = goal.least_accuracy
    if least is not None and base.accuracy < least:
        said += (
            f". The baseline itself has {100 * base.accuracy:.1f} %: it is the model that does not "
            "reach the limit, not the setting"
        )
    elif nearest.margin.standing == "within":
        said += ". It is within as measured, and not surely: measure more prompts"
    return said


def _asked(found: Recommendation) -> Iterator[str]:
    cell, goal, name = found.search.template, found.search.goal, measure_name(found)
    aim = (
        "least seconds for a request (median)"
        if goal.objective == "latency"
        else "least seconds for all prompts"
    )
    at_once = "one request at a time" if cell.batch_size == 1 else f"{cell.batch_size} at once"
    yield (f"{cell.model}, {found.num_prompts} prompts of {cell.task.name}, {at_once}")
    yield f"wanted: {aim}; {limit_text(goal, name)}"
    if name == "agreement":
        yield (
            "No references: agreement is the share of outputs that equal the baseline's, token for "
            "token,"
        )
        yield "and stands in for accuracy. It says what changes, not what is right."


def _table(found: Recommendation) -> list[str]:
    name = measure_name(found)
    is_latency = found.search.goal.objective == "latency"
    head = ["", "setting", f"{name} %", "loss, points", "forwards"]
    head += ["s median", "p95"] if is_latency else ["batch", "tokens/s"]
    lines = [[*head, "faster"]]
    for each in sorted(found.judged.verdicts, key=lambda each: each.cost_s):
        mark = "*" if each is found.chosen else _MARKS[each.margin.standing]
        note = " (default)" if each is found.default else ""
        lines.append([
            mark, f"{each.candidate}{note}", *_numbers(found, each.measured, _loss(each)),
            f"{each.faster:.1f}x",
        ])  # fmt: skip
    base = _numbers(found, found.judged.base, "")
    lines.append(["", f"{BASELINE} (baseline)", *base, "1.0x"])
    lines[1:] = [_fitted(line) for line in lines[1:]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    made = [_row(line, widths) for line in lines]
    notes = ["* recommended"]
    marks = {line[0] for line in lines}
    notes += ["? within the limit as measured, not surely"] if "?" in marks else []
    notes += ["x outside the limit"] if "x" in marks else []
    made.append(f"[95 % intervals]  {'  '.join(notes)}" if found.chosen else "x outside the limit")
    made += [f"not run: {name}: {reason}" for name, reason in found.judged.errors.items()]
    return made


def _numbers(found: Recommendation, measured: Measurement, loss: str) -> list[str]:
    """Tokens/s stand beside accuracy, forwards and batch size alone."""
    timing = measured.timing
    speed = [f"{timing.latency_p50_s:.3g}", f"{timing.latency_p95_s:.3g}"]
    if found.search.goal.objective == "throughput":
        speed = [str(found.search.template.batch_size), f"{timing.tokens_per_s:.0f}"]
    accuracy = f"{100 * measured.accuracy:.1f} {_range(measured.accuracy_interval, 0)}"
    return [accuracy, loss, f"{measured.nfe:.1f}", *speed]


def _loss(verdict: Verdict) -> str:
    return f"{100 * verdict.loss + 0.0:.1f} {_range(verdict.loss_interval, 1)}"


def _range(interval: Interval, digits: int) -> str:
    low, high = (100 * each + 0.0 for each in interval)
    return f"[{low:.{digits}f}, {high:.{digits}f}]"


def _fitted(line: Sequence[str], width: int = 40) -> list[str]:
    """The line with its setting cut where it would push the numbers off the screen."""
    mark, name, *numbers = line
    return [mark, name if len(name) <= width else f"{name[: width - 3]}...", *numbers]


def _row(line: Sequence[str], widths: Sequence[int]) -> str:
    mark, name, *numbers = line
    cells = [each.rjust(width) for each, width in zip(numbers, widths[2:], strict=True)]
    return "  ".join([f"{mark:1} {name:{widths[1]}}", *cells]).rstrip()


def _evidence(found: Recommendation, chosen: Verdict) -> Iterator[str]:
    label = "" if chosen.measured.label == EXACT else f" ({chosen.measured.label})"
    yield from _wrapped("use", f"cache {chosen.candidate.cache}, remasking "
                        f"{chosen.candidate.remasking}{label}")  # fmt: skip
    yield from _wrapped("why", _why(found, chosen))
    yield from _wrapped("gain", _gain(found, chosen))
    yield from _wrapped("how sure", _how_sure(found, chosen))
    yield from _wrapped("holds for", _holds_for(found, chosen))


def _why(found: Recommendation, chosen: Verdict) -> str:
    num_tried = len(found.search.candidates)
    said = f"the fastest within the limit of {num_tried} settings tried in {found.num_rounds} "
    said += "round" if found.num_rounds == 1 else "rounds"
    if found.as_fast:
        others = "; ".join(str(each.candidate) for each in found.as_fast)
        reason = "the more accurate" if any(
            each.measured.accuracy < chosen.measured.accuracy for each in found.as_fast
        ) else "as accurate, and the default or the more exact"  # fmt: skip
        said = (
            f"within {100 * TIE:.0f} % of the fastest of {num_tried} settings tried, which one run "
            f"cannot tell apart, and {reason}; as fast: {others}"
        )
    return said


def _gain(found: Recommendation, chosen: Verdict) -> str:
    low, high = chosen.compared.fewer_forwards_interval
    said = (
        f"{chosen.faster:.1f}x as fast as the baseline, with {chosen.compared.fewer_forwards:.1f}x "
        f"fewer forwards [{low:.1f}, {high:.1f}]"
    )
    default = found.default
    if default is chosen:
        return f"{said}; it is the default, so that nothing needs to change"
    if default is None:
        return f"{said}; the default ({found.search.default}) was not among those that ran"
    against = default.cost_s / chosen.cost_s
    change = chosen.measured.accuracy - default.measured.accuracy
    return (
        f"{said}; {against:.2f}x as fast as the default ({default.candidate}), "
        f"{measure_name(found)} {100 * change:+.1f} points"
    )


def _how_sure(found: Recommendation, chosen: Verdict) -> str:
    goal = found.search.goal
    compared = chosen.compared
    said = (
        f"{compared.lost} prompts lost and {compared.gained} gained of {chosen.count}: "
        f"a loss of {_loss(chosen)} points"
    )
    if chosen.margin.standing == "surely within":
        return f"{said}, surely within the limit"
    needed = prompts_to_be_sure(chosen, goal, found.judged.z)
    if needed is None:
        return f"{said}; it lies at the limit, where more prompts decide little"
    return (
        f"{said}; within the limit as measured, not surely. About {needed:,} prompts that go the "
        "same way would settle it (--num-prompts), --sure insists on it"
    )


def _holds_for(found: Recommendation, chosen: Verdict) -> str:
    cell, base, own = chosen.cell, found.judged.base, chosen.measured
    where = found.environment.get("gpu") or (
        f"{found.environment.get('cpu')}, {found.environment.get('num_threads')} threads"
    )
    said = (
        f"prompts of about {base.prompt_tokens:.0f} tokens, at most {cell.max_tokens} new ones, "
        f"batch {cell.batch_size}, {where}; measure again for others."
    )
    return (
        f"{said} Longer prompts add rows to a forward: {own.rows / own.nfe:.0f} a request here, "
        f"{base.rows / base.nfe:.0f} in the baseline, which computes the whole prompt every time"
    )


def _commands(found: Recommendation, chosen: Verdict) -> str:
    listed = commands_for(chosen.cell, found.search.goal.objective)
    return "\n".join(as_lines(words, WIDTH) for words in listed.values())


def _wrapped(head: str, text: str) -> list[str]:
    """A text behind its heading, the further lines below it."""
    return textwrap.wrap(
        f"{head:{_INDENT}}{text}", WIDTH, subsequent_indent=" " * _INDENT,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
