"""Draw the pictures of docs/concepts.md.

    python -m tools.draw_concepts

Writes docs/images/concepts/: ``blocks.svg``, one answer forward by forward, and ``forwards.svg``,
how many tokens each forward unmasks under three policies, both from runs of the shipped model; and
``plans.svg``, the row sets of single steps, from the cache policies' own plans.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Final

import starr_engine
from benchmarks.plan_simulation import Shape, SimulatedStep, simulate
from starr_engine import LLM, SamplingParams
from starr_engine.cache.base import CACHE_POLICIES
from starr_engine.cache.rows import RowRanges, intersection
from starr_engine.params import ArgValue
from starr_engine.study.tasks import TASKS, Problem
from starr_engine.trace import Outcome, Trace, TraceStep

FOLDER: Final = Path(__file__).parents[1] / "docs" / "images" / "concepts"
PROBLEMS: Final = Path(starr_engine.__file__).parent / "assets" / "problems.jsonl"
PROBLEM: Final = "word_problems-418208a8973f"
CHAIN: Final = "chains-c1928c3a63c3"

CELLS: Final = {
    "new": ("#2471a3", "#ffffff", "unmasked by this forward"),
    "old": ("#bcd9ec", "#10222b", "unmasked before, may still be masked again"),
    "done": ("#d8d3c8", "#10222b", "committed: final"),
    "mask": ("#ffffff", "#5f6b73", "mask; in it what was proposed and not taken"),
    "back": ("#d35400", "#ffffff", "masked again (revoked)"),
}
"""Class to fill, ink and words. Blue, orange and greys differ for every kind of eye."""

HEIGHT: Final = 24
LEFT: Final = 76


def svg(width: int, height: int, label: str, body: str, style: str = "") -> str:
    """A picture that is legible on light and dark pages."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-label="{escape(label)}">'
        "<style>text{font:12px system-ui,sans-serif;fill:#7a8790}"
        ".m{font-family:ui-monospace,Menlo,Consolas,monospace}.b{font-weight:600}"
        f".r{{text-anchor:end}}.c{{text-anchor:middle}}{style}</style>{body}</svg>\n"
    )


def legend(entries: Sequence[tuple[str, str]], x: int, y: int, width: int) -> tuple[str, int]:
    """Classes with their words, in as many lines as they need, and where these end."""
    parts, at = [], x
    for name, words in entries:
        wide = 30 + round(6.3 * len(words))
        if at + wide > width:
            at, y = x, y + 19
        parts.append(
            f'<rect class="{name}" x="{at}" y="{y}" width="13" height="13" rx="2"/>'
            f'<text x="{at + 19}" y="{y + 11}">{words}</text>'
        )
        at += wide
    return "".join(parts), y + 19


# -- One answer, forward by forward


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One position of the canvas at one moment."""

    kind: str
    text: str


SHOWN: Final = 32
"""Positions of the canvas in the picture, from the first block's."""


def cells_of(trace: Trace, step: TraceStep) -> list[Cell]:
    """The positions behind the prompt after a forward."""
    start, positions = step.block_start, step.positions
    cells = []
    for place in range(trace.num_prompt_tokens, trace.num_prompt_tokens + SHOWN):
        offset = place - start
        if offset < 0:
            cells.append(Cell(kind="done", text=shown(trace, int(trace.final_ids[place]))))
        elif offset < len(positions.outcomes):
            outcome = Outcome(int(positions.outcomes[offset]))
            kind = {
                Outcome.UNMASKED: "new",
                Outcome.REVOKED: "back",
                Outcome.MASKED: "mask",
            }.get(outcome, "old")
            cells.append(Cell(kind=kind, text=shown(trace, int(positions.candidates[offset]))))
        else:
            cells.append(Cell(kind="mask", text=""))
    return cells


def shown(trace: Trace, token: int) -> str:
    """A token's text; white space and the end have names."""
    if token == trace.mask_token_id:
        return ""
    text = trace.token_texts[token]
    if text.strip() == "<|endoftext|>":
        return "end"
    return text.strip() or "\\n"


def draw_blocks(llm: LLM, prompt: str) -> str:
    """The canvas after every forward."""
    params = SamplingParams(
        max_tokens=64,
        block_length=8,
        remasking="starr",
        remasking_args={"revoke_below": 0.5},
        cache="none",
        trace=True,
    )
    [output] = llm.generate(prompt, params)
    trace = output.trace
    assert trace is not None, "the request asks for a trace"
    lines = [cells_of(trace, step) for step in trace.steps]
    texts = zip(*([cell.text for cell in line] for line in lines), strict=True)
    widths = [max(15, *(round(7.3 * len(text)) + 8 for text in column)) for column in texts]
    lefts = [LEFT + sum(widths[:at]) + 2 * at + 8 * (at // 8) for at in range(len(widths))]
    total = lefts[-1] + widths[-1] + 110
    parts = [f'<text x="{LEFT}" y="16">{escape(prompt)}</text>']
    for index in range(len(widths) // 8):
        parts.append(f'<text class="b" x="{lefts[index * 8]}" y="42">block {index}</text>')
    y = 50
    for number, (step, line) in enumerate(zip(trace.steps, lines, strict=True), start=1):
        parts.append(f'<text class="r" x="{LEFT - 10}" y="{y + 16}">forward {number}</text>')
        for x, width, cell in zip(lefts, widths, line, strict=True):
            parts.append(
                f'<rect class="{cell.kind}" x="{x}" y="{y}" width="{width}" height="{HEIGHT}" '
                f'rx="3"/><text class="m c t{cell.kind}" x="{x + width / 2:g}" y="{y + 16}">'
                f"{escape(cell.text)}</text>"
            )
        first = step.block_start - trace.num_prompt_tokens
        last = first + len(step.positions.outcomes) - 1
        parts.append(
            f'<rect class="block" x="{lefts[first] - 3}" y="{y - 3}" rx="4" height="{HEIGHT + 6}" '
            f'width="{lefts[last] + widths[last] - lefts[first] + 6}"/>'
        )
        count = sum(cell.kind == "new" for cell in line)
        words = f"{count} token{'' if count == 1 else 's'}"
        parts.append(f'<text x="{lefts[-1] + widths[-1] + 8}" y="{y + 16}">... {words}</text>')
        y += HEIGHT + 10
    entries = [(name, text) for name, (_, _, text) in CELLS.items()] + [("block", "active block")]
    below, end = legend(entries, LEFT, y + 8, total)
    parts.append(
        f'<text x="{LEFT}" y="{end + 14}">{output.num_unmasked} tokens in {output.nfe} forwards: '
        f"NFE {output.nfe}, TPF {output.tpf:.1f}. The end token stands in block 2, so none of the "
        "blocks 3 to 7 is ever decoded.</text>"
    )
    style = "".join(
        f".{name}{{fill:{fill};stroke:#b9c0c4}}.t{name}{{fill:{ink}}}"
        for name, (fill, ink, _) in CELLS.items()
    )
    style += ".tback{text-decoration:line-through}.block{fill:none;stroke:#c9a227;stroke-width:2}"
    label = "A canvas that fills in, block by block, over five forwards"
    return svg(total, end + 24, label, "".join([*parts, below]), style)


# -- How many tokens a forward unmasks

PACES: Final[Sequence[tuple[str, str, Mapping[str, ArgValue]]]] = (
    ("one token per step", "low_confidence", {}),
    ("four tokens per step", "low_confidence", {"tokens_per_step": 4}),
    ("STaRR", "starr", {}),
)


def draw_forwards(llm: LLM, problem: Problem) -> str:
    """A bar for every forward, as high as the tokens that it unmasked."""
    unit, bar, parts, y = 2, 10, [f'<text x="10" y="16">{escape(problem.prompt)}</text>'], 34
    width = 20 + round(6.7 * len(problem.prompt))
    for title, name, args in PACES:
        params = SamplingParams(
            remasking=name, remasking_args=args, cache="none", trace=True, max_tokens=64
        )
        [output] = llm.generate(problem.prompt, params)
        assert output.trace is not None, "the request asks for a trace"
        verdict = "right" if TASKS[problem.task].score(problem, output.text) else "wrong"
        counts = [
            int((step.positions.outcomes == Outcome.UNMASKED).sum()) for step in output.trace.steps
        ]
        high = max(max(counts) * unit, 8)
        parts.append(f'<text class="b" x="10" y="{y + 10}">{title}</text>')
        answer = output.text.splitlines()[-1]
        words = f"NFE {output.nfe}, TPF {output.tpf:.1f}; {answer}, which is {verdict}"
        parts.append(f'<text x="165" y="{y + 10}">{escape(words)}</text>')
        base = y + 16 + high
        for at, (count, step) in enumerate(zip(counts, output.trace.steps, strict=True)):
            shade = "even" if step.block_index % 2 == 0 else "odd"
            parts.append(
                f'<rect class="{shade}" x="{10 + at * (bar + 2)}" y="{base - count * unit}" '
                f'width="{bar}" height="{count * unit}"/>'
            )
            x = 10 + at * (bar + 2) + bar / 2
            parts.append(f'<text class="c s" x="{x:g}" y="{base + 11}">{count}</text>')
        width = max(width, 20 + len(counts) * (bar + 2))
        y = base + 30
    below, end = legend(
        [
            ("even", "forwards of the first block, with the tokens that each unmasked"),
            ("odd", "of the second"),
        ],
        10,
        y,
        width,
    )
    label = "Tokens unmasked by every forward under three remasking policies"
    style = ".even{fill:#2471a3}.odd{fill:#85b7d9}.s{font-size:9px}"
    return svg(width, end + 4, label, "".join(parts) + below, style)


# -- The row sets of a step

SHAPE: Final = Shape(prompt_len=32, max_tokens=48, block_length=16)
LANES: Final = {
    "query": ("#2471a3", "A computed"),
    "write": ("#5d9cc9", "W written to pages"),
    "read": ("#b0a895", "R attended to"),
    "score": ("#d35400", "D scored"),
}
ROW: Final = 5.6
"""Width of a row of the canvas."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One step of the second block under one cache policy."""

    title: str
    cache: str
    steps_in_block: int
    mask_block: bool = False


MOMENTS: Final = (
    Moment(title="none: every step", cache="none", steps_in_block=5),
    Moment(title="dual: a block's first step, a refresh", cache="dual", steps_in_block=0),
    Moment(title="dual: inside the block", cache="dual", steps_in_block=5),
    Moment(title="block_causal: a block's first step, and the commit of the one before",
           cache="block_causal", steps_in_block=0, mask_block=True),
    Moment(title="block_causal: inside the block", cache="block_causal", steps_in_block=5,
           mask_block=True),
)  # fmt: skip


def step_of(moment: Moment, shape: Shape) -> SimulatedStep:
    """The step that a moment names."""
    policy = CACHE_POLICIES.create(moment.cache, {})
    steps = list(simulate(policy, shape, seed=3))
    blocks = list(dict.fromkeys(step.block for step in steps))
    return [step for step in steps if step.block == blocks[1]][moment.steps_in_block]


def lanes(step: SimulatedStep, uses_pages: bool) -> Iterator[tuple[str, RowRanges]]:
    """The four sets; what is computed goes to pages, if there are any."""
    yield "query", step.query
    yield "write", step.query if uses_pages else ()
    yield "read", step.read
    yield "score", intersection(step.masked, (step.block,))


def draw_plans() -> str:
    """A panel for each moment, a lane for each set."""
    parts: list[str] = []
    left, y = 150, 12
    width = 0
    for moment in MOMENTS:
        shape = Shape(
            prompt_len=SHAPE.prompt_len,
            max_tokens=SHAPE.max_tokens,
            block_length=SHAPE.block_length,
            mask_block=moment.mask_block,
        )
        step = step_of(moment, shape)
        length = shape.prompt_len + shape.max_tokens
        width = max(width, round(left + length * ROW + 90))
        parts.append(f'<text class="b" x="{left}" y="{y + 10}">{escape(moment.title)}</text>')
        y += 20
        top = y
        for name, rows in lanes(step, CACHE_POLICIES.get(moment.cache).uses_pages):
            parts.append(f'<text class="r" x="{left - 10}" y="{y + 10}">{LANES[name][1]}</text>')
            for start, stop in rows:
                parts.append(
                    f'<rect class="{name}" x="{left + start * ROW:g}" y="{y}" '
                    f'width="{(stop - start) * ROW:g}" height="11"/>'
                )
            count = sum(stop - start for start, stop in rows)
            parts.append(f'<text x="{left + length * ROW + 10:g}" y="{y + 10}">{count}</text>')
            y += 15
        for start, stop, words in spans(shape, step):
            x, wide = left + start * ROW, (stop - start) * ROW
            box = "block" if words == "active block" else "frame"
            parts.append(
                f'<rect class="{box}" x="{x:g}" y="{top - 2}" width="{wide:g}" '
                f'height="{y - top}"/>'
                f'<text class="c s" x="{x + wide / 2:g}" y="{y + 11}">{words}</text>'
            )
        y += 28
    style = "".join(f".{name}{{fill:{color}}}" for name, (color, _) in LANES.items())
    style += (
        ".block{fill:none;stroke:#c9a227;stroke-width:2}"
        ".frame{fill:none;stroke:#7a8790;stroke-width:.6}.s{font-size:11px}"
    )
    parts.append(
        f'<text x="{left}" y="{y + 6}">Across: rows of the canvas; right: how many. Scored are the '
        "active block's masks.</text>"
    )
    label = "Rows computed, written, read and scored by single steps of three cache policies"
    return svg(width, y + 16, label, "".join(parts), style)


def spans(shape: Shape, step: SimulatedStep) -> Iterator[tuple[int, int, str]]:
    """The parts of the canvas, with their names."""
    start, stop = step.block
    length = shape.prompt_len + shape.max_tokens
    yield 0, shape.prompt_len, "prompt"
    yield shape.prompt_len, start, "committed"
    yield start, stop, "active block"
    yield stop, length, "to come" if step.num_live == length else "not there yet"


def main() -> None:
    """Write all pictures."""
    lines = PROBLEMS.read_text(encoding="utf-8").splitlines()
    problems = {row["id"]: Problem(**row) for row in map(json.loads, lines)}
    llm = LLM("tiny-llada", device="cpu", dtype="float32")
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, picture in (
        ("blocks", draw_blocks(llm, problems[PROBLEM].prompt)),
        ("forwards", draw_forwards(llm, problems[CHAIN])),
        ("plans", draw_plans()),
    ):
        (FOLDER / f"{name}.svg").write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
