"""Draw for each cache policy which rows of the canvas a denoising step computes.

    python -m tools.draw_cache_rows

Writes docs/images/cache_rows.svg from the policies' own plans, one token per step over three
blocks; no model is run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Final

from benchmarks.plan_simulation import Shape, SimulatedStep, simulate
from starr_engine.cache.base import CACHE_POLICIES
from starr_engine.cache.rows import RowRanges, difference, intersection
from starr_engine.params import ArgValue

OUTPUT: Final = Path(__file__).parents[1] / "docs" / "images" / "cache_rows.svg"

SHAPE: Final = Shape(prompt_len=16, max_tokens=36, block_length=12, num_layers=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One policy in the picture."""

    title: str
    cache: str
    args: Mapping[str, ArgValue]
    mask_block: bool = False


PANELS: Final = (
    Panel(title="none", cache="none", args={}),
    Panel(title="prefix", cache="prefix", args={}),
    Panel(title="dual", cache="dual", args={}),
    Panel(title="dual, refresh never", cache="dual", args={"refresh": "never"}),
    Panel(title="vicinity, 4 and 4", cache="vicinity",
          args={"look_back": 4, "look_ahead": 4}),
    Panel(title="delayed, every 6", cache="delayed", args={"refresh_every": 6}),
    Panel(title="dllm, 12 and 4", cache="dllm",
          args={"prompt_interval": 12, "response_interval": 4}),
    Panel(title="dual, suffix window 8", cache="dual", args={"suffix_window": 8}),
    Panel(title="block_causal", cache="block_causal", args={}, mask_block=True),
)  # fmt: skip

COLORS: Final = {
    "computed": ("#2471a3", "computed"),
    "partial": ("#85b7d9", "computed in part (later layers choose rows)"),
    "reused": ("#d8d3c8", "reused from pages"),
    "dirty": ("#d35400", "computed, its token newer than its key and value (dirty)"),
}
"""Class to its colour and its words; mid tones, to be told apart on light and on dark pages."""

CELL: Final = 6
"""Width of a step; a row is CELL_HEIGHT high."""
CELL_HEIGHT: Final = 3
COLUMNS: Final = 3
GAP: Final = 26
LEFT: Final = 40
TOP: Final = 30


def classes(step: SimulatedStep) -> dict[str, RowRanges]:
    """The rows that exist at a step, by what becomes of them."""
    whole = difference(step.query, step.partial)
    dirty = intersection(step.dirty, whole)
    return {
        "computed": difference(whole, dirty),
        "partial": intersection(step.partial, step.query),
        "reused": difference(step.read, step.query),
        "dirty": dirty,
    }


def bars(steps: list[SimulatedStep]) -> Iterator[str]:
    """Rectangles of one panel, equal rows of neighbouring steps joined."""
    for name in COLORS:
        spans: dict[tuple[int, int], list[int]] = {}
        for at, step in enumerate(steps):
            for rows in classes(step)[name]:
                spans.setdefault(rows, []).append(at)
        for (start, stop), columns in spans.items():
            for _, run in groupby(enumerate(columns), key=lambda pair: pair[1] - pair[0]):
                joined = [column for _, column in run]
                yield (
                    f'<rect class="{name}" x="{joined[0] * CELL}" y="{start * CELL_HEIGHT}" '
                    f'width="{len(joined) * CELL}" height="{(stop - start) * CELL_HEIGHT}"/>'
                )


def marks(steps: list[SimulatedStep]) -> Iterator[str]:
    """One outline around each block for as long as it is active."""
    for (start, stop), run in groupby(enumerate(steps), key=lambda pair: pair[1].block):
        at = [column for column, _ in run]
        yield (
            f'<rect class="block" x="{at[0] * CELL}" y="{start * CELL_HEIGHT}" '
            f'width="{len(at) * CELL}" height="{(stop - start) * CELL_HEIGHT}"/>'
        )


def panel(entry: Panel) -> str:
    """A panel at the origin, with its title and its count."""
    shape = Shape(
        prompt_len=SHAPE.prompt_len,
        max_tokens=SHAPE.max_tokens,
        block_length=SHAPE.block_length,
        mask_block=entry.mask_block,
        num_layers=SHAPE.num_layers,
    )
    steps = list(simulate(CACHE_POLICIES.create(entry.cache, dict(entry.args)), shape, seed=1))
    length = SHAPE.prompt_len + SHAPE.max_tokens
    share = sum(step.computed_rows for step in steps) / (length * len(steps))
    width = len(steps) * CELL
    return (
        f'<text x="0" y="-7" class="t">{escape(entry.title)}</text>'
        f'<text x="{width}" y="-7" class="n">{share:.0%}</text>'
        + "".join(bars(steps))
        + "".join(marks(steps))
        + f'<rect class="frame" x="0" y="0" width="{width}" height="{length * CELL_HEIGHT}"/>'
    )


def draw() -> str:
    """The whole picture, legible on light and dark pages."""
    width = SHAPE.max_tokens * CELL
    length = SHAPE.prompt_len + SHAPE.max_tokens
    height = length * CELL_HEIGHT
    parts = []
    for at, entry in enumerate(PANELS):
        x = LEFT + at % COLUMNS * (width + GAP)
        y = TOP + at // COLUMNS * (height + GAP + 10)
        parts.append(f'<g transform="translate({x} {y})">{panel(entry)}</g>')
    num_lines = -(-len(PANELS) // COLUMNS)
    bottom = TOP + num_lines * (height + GAP + 10) - 14
    total = LEFT + COLUMNS * (width + GAP)
    axes = (
        f'<text x="{LEFT - 6}" y="{TOP + 10}" class="a">row 0</text>'
        f'<text x="{LEFT - 6}" y="{TOP + SHAPE.prompt_len * CELL_HEIGHT + 4}" class="a">'
        f"{SHAPE.prompt_len}</text>"
        f'<text x="{LEFT - 6}" y="{TOP + height}" class="a">{length}</text>'
        f'<text x="{LEFT}" y="{bottom}" class="l">Across: denoising steps, one token each. Down: '
        f"rows of the canvas, {SHAPE.prompt_len} of the prompt, {SHAPE.max_tokens} new.</text>"
        f'<text x="{LEFT}" y="{bottom + 17}" class="l">Per cent: rows computed, of all rows at all '
        "steps. Empty: rows that do not exist for the model.</text>"
    )
    # What no policy shows needs no explanation.
    shown = [name for name in COLORS if f'class="{name}"' in "".join(parts)]
    labels = [(name, COLORS[name][1]) for name in shown] + [("block", "active block")]
    legend, x, y = "", LEFT, bottom + 30
    for name, words in labels:
        wide = 32 + round(6.2 * len(words))
        if x + wide > total:
            x, y = LEFT, y + 18
        legend += (
            f'<rect class="{name}" x="{x}" y="{y}" width="12" height="12"/>'
            f'<text x="{x + 17}" y="{y + 10}" class="l">{words}</text>'
        )
        x += wide
    fills = "".join(f".{name}{{fill:{color}}}" for name, (color, _) in COLORS.items())
    size = f'width="{total}" height="{y + 22}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {y + 22}" {size} '
        'role="img" aria-label="Rows that each cache policy computes at each denoising step">'
        "<style>text{font:12px system-ui,sans-serif;fill:#7a8790}"
        ".t{font-weight:600;font-family:ui-monospace,Menlo,Consolas,monospace}"
        ".n{text-anchor:end}.a{text-anchor:end;font-size:11px}"
        f"{fills}"
        ".block{fill:none;stroke:#c9a227;stroke-width:1.6}"
        ".frame{fill:none;stroke:#7a8790;stroke-width:.6}</style>"
        f"{axes}{''.join(parts)}{legend}</svg>\n"
    )


def main() -> None:
    """Write the picture."""
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
