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

_NO_REFERENCES: Final = (
    "No references: agreement is the share of outputs equal to the baseline's, token for token. It",
    "stands in for accuracy, and says what changes, not what is right.",
)

_LEGEND: Final = {
    "*": "* recommended",
    "?": "? within as measured",
    "x": "x outside the limit",
}


def as_text(found: Recommendation) -> str:
    """The table of the finalists, the recommendation with its evidence, and the commands."""
    parts = ["\n".join(_asked(found)), "\n".join(_table(found))]
    if found.chosen is None:
        lines = _wrapped("none fits", why_nothing_fits(found))
        if found.nearest is not None:
            lines += _wrapped("nearest", _nearest(found, found.nearest))
        parts.append("\n".join(lines))
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
    """That there is no recommendation, and what came nearest."""
    said = f"no setting has {limit_text(found.search.goal, measure_name(found))}"
    if found.nearest is not None:
        return f"{said}; nearest is {found.nearest.candidate}"
    if found.judged.verdicts:
        return f"{said} and is faster than the baseline"
    return f"{said}: none could run"


def _nearest(found: Recommendation, nearest: Verdict) -> str:
    goal, name = found.search.goal, measure_name(found)
    loss = f", a loss of {_loss(nearest)} points" if name == "accuracy" else ""
    said = (
        f"{nearest.candidate}: {name} {100 * nearest.measured.accuracy:.1f} %{loss}, "
        f"{nearest.faster:.1f}x as fast as the baseline"
    )
    least, base = goal.least_accuracy, found.judged.base.accuracy
    if least is not None and base < least:
        return (
            f"{said}. The baseline itself has {100 * base:.1f} %: the model does not reach the "
            "limit, whatever the setting"
        )
    if nearest.margin.standing == "within":
        return f"{said}. It is within the limit as measured, and not surely: measure more prompts"
    return said


def _asked(found: Recommendation) -> Iterator[str]:
    cell, goal, name = found.search.template, found.search.goal, measure_name(found)
    at_once = "one request at a time"
    if cell.batch_size > 1:
        mean = found.judged.base.timing.mean_batch
        at_once = f"{cell.batch_size} requests at once ({mean:.1f} on average in the baseline)"
    yield f"{cell.model}, {found.num_prompts} prompts of {cell.task.name}, {at_once}"
    if (budget := found.search.budget_s) is not None:
        yield f"so many prompts fit into {budget / 60:g} minutes of measuring"
    aim = "a request (median)" if goal.objective == "latency" else "all prompts together"
    yield f"wanted: least time for {aim}, with {limit_text(goal, name)}"
    if name == "agreement":
        yield from _NO_REFERENCES


def _table(found: Recommendation) -> list[str]:
    name = measure_name(found)
    is_latency = found.search.goal.objective == "latency"
    head = ["", "setting", f"{name} %", *(["loss, points"] if name == "accuracy" else [])]
    head += ["forwards", *(["ms p50", "p95"] if is_latency else ["batch", "tokens/s"])]
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
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    room = WIDTH - 2 - sum(2 + width for width in widths[2:])
    widths[1] = min(widths[1], room)
    made = [_row(line, widths) for line in lines]
    marks = {line[0] for line in lines}
    notes = [text for mark, text in _LEGEND.items() if mark in marks]
    brackets = "[95 %, losses for all rows at once]" if name == "accuracy" else "[95 %]"
    made.append("; ".join([brackets, *notes]))
    made += [f"not run: {name}: {reason}" for name, reason in found.judged.errors.items()]
    return made


def _numbers(found: Recommendation, measured: Measurement, loss: str) -> list[str]:
    """Tokens/s stand beside accuracy, forwards and batch size alone."""
    timing = measured.timing
    speed = [_milliseconds(timing.latency_p50_s), _milliseconds(timing.latency_p95_s)]
    if found.search.goal.objective == "throughput":
        speed = [str(found.search.template.batch_size), f"{timing.tokens_per_s:.0f}"]
    accuracy = f"{100 * measured.accuracy:.1f} {_range(measured.accuracy_interval)}"
    losses = [loss] if measure_name(found) == "accuracy" else []
    return [accuracy, *losses, f"{measured.nfe:.1f}", *speed]


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.1f}" if seconds < 0.1 else f"{1000 * seconds:.0f}"


def _loss(verdict: Verdict) -> str:
    return f"{100 * verdict.loss:.1f} {_range(verdict.loss_interval)}"


def _range(interval: Interval) -> str:
    """Whole points, tenths where the interval is narrow."""
    low, high = (100 * each for each in interval)
    digits = 0 if high - low > 4 else 1
    # + 0.0: rounding would otherwise leave a -0.
    return f"[{round(low, digits) + 0.0:.{digits}f}, {round(high, digits) + 0.0:.{digits}f}]"


def _row(line: Sequence[str], widths: Sequence[int]) -> str:
    mark, name, *numbers = line
    if len(name) > widths[1]:
        name = f"{name[: widths[1] - 3]}..."
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
    rounds = "1 round" if found.num_rounds == 1 else f"{found.num_rounds} rounds"
    tried = f"of {num_tried} settings tried in {rounds}"
    if not found.as_fast:
        return f"the fastest within the limit {tried}"
    names = [str(each.candidate) for each in sorted(found.as_fast, key=lambda each: each.cost_s)]
    others = "; ".join(names[:3]) + (f"; {len(names) - 3} more" if len(names) > 3 else "")
    same = f"; as fast, as far as one run can tell ({100 * TIE:.0f} %): {others}"
    if all(each.cost_s >= chosen.cost_s for each in found.as_fast):
        return f"the fastest within the limit {tried}{same}"
    if all(each.measured.accuracy < chosen.measured.accuracy for each in found.as_fast):
        reason = f"the best {measure_name(found)}"
    elif chosen is found.default:
        reason = "it is the default"
    else:
        reason = f"no {measure_name(found)} above its own"
    return f"of the fastest within the limit, {tried[3:]}, {reason}{same}"


def _gain(found: Recommendation, chosen: Verdict) -> str:
    low, high = chosen.compared.fewer_forwards_interval
    said = (
        f"{chosen.faster:.1f}x as fast as the baseline, with {chosen.compared.fewer_forwards:.1f}x "
        f"fewer forwards [{low:.1f}, {high:.1f}]"
    )
    default = found.default
    if default is chosen:
        return f"{said}; it is the default: nothing needs to change"
    if default is None:
        return f"{said}; the default ({found.search.default}) was not among those that ran"
    against = default.cost_s / chosen.cost_s
    change = chosen.measured.accuracy - default.measured.accuracy
    return (
        f"{said}; {against:.2f}x as fast as the default ({default.candidate}), "
        f"{measure_name(found)} {100 * change:+.1f} points"
    )


def _how_sure(found: Recommendation, chosen: Verdict) -> str:
    goal, compared = found.search.goal, chosen.compared
    said = f"of {chosen.count} prompts {compared.lost} lost and {compared.gained} gained"
    if goal.least_accuracy is None:
        said += f": a loss of {_loss(chosen)} points"
    else:
        low, high = (each + goal.least_accuracy for each in chosen.margin.interval)
        accuracy = f"{100 * chosen.measured.accuracy:.1f} % {_range((low, high))}"
        said += f": {measure_name(found)} {accuracy}"
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
    threads = found.environment.get("num_threads")
    where = found.environment.get("gpu") or (
        f"{found.environment.get('cpu')} with {threads} thread{'' if threads == 1 else 's'}"
    )
    said = (
        f"prompts of about {base.prompt_tokens:.0f} tokens, at most {cell.max_tokens} new ones, "
        f"batch {cell.batch_size}, {where}; measure again for others."
    )
    if chosen.candidate.cache == BASELINE.cache:
        return (
            f"{said} It has no cache: every forward computes the prompt, and longer ones cost that"
        )
    return (
        f"{said} A forward computes {own.rows / own.nfe:.0f} rows of a request, in the baseline "
        f"{base.rows / base.nfe:.0f}, all of them: longer prompts widen that gap"
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
