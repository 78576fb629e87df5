"""Draw for each family of remasking policies which forward unmasked which token.

    python -m tools.draw_policies

Writes docs/images/policies/<family>.svg: the shipped model's answer to one shipped problem, one
box per token, shaded by the forward that unmasked it and numbered with it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from types import MappingProxyType
from typing import Final

import starr_engine
from starr_engine import LLM, RequestOutput, SamplingParams
from starr_engine.params import ArgValue
from starr_engine.trace import Outcome

ROOT: Final = Path(__file__).parents[1]
FOLDER: Final = ROOT / "docs" / "images" / "policies"
PROBLEMS: Final = Path(starr_engine.__file__).parent / "assets" / "problems.jsonl"

FAMILIES: Final[Mapping[str, tuple[str, Mapping[str, ArgValue]]]] = MappingProxyType(
    {
        "quota": ("low_confidence", {"tokens_per_step": 4}),
        "schedule": ("maskgit_plus", {"num_steps_per_block": 8}),
        "gate": ("threshold", {"threshold": 0.9}),
        "prefix": ("frechet", {}),
        "neighbourhood": ("local_leap", {}),
        "temporal": ("klass", {}),
        "credit": ("credit", {}),
        "revocable": ("wino", {}),
        "starr": ("starr", {}),
    }
)

CELL_HEIGHT: Final = 34
CHARACTER: Final = 7.4
PADDING: Final = 5
WIDTH: Final = 760
LEFT: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """One token of the answer."""

    text: str
    forward: int
    """Counted from 1."""
    revoked: bool
    """Whether it was masked again at least once before."""


def boxes_of(llm: LLM, output: RequestOutput) -> list[Box]:
    """The output's tokens, with the forward that unmasked each last, from its trace."""
    assert output.trace is not None, "the request asks for a trace"
    start = len(output.prompt_token_ids)
    last: dict[int, int] = {}
    revoked: set[int] = set()
    for forward, step in enumerate(output.trace.steps, start=1):
        for offset, outcome in enumerate(step.positions.outcomes):
            place = step.block_start + offset - start
            if outcome == Outcome.UNMASKED:
                last[place] = forward
            elif outcome == Outcome.REVOKED:
                revoked.add(place)
    return [
        Box(text=llm.tokenizer.decode([token]), forward=last[place], revoked=place in revoked)
        for place, token in enumerate(output.token_ids)
    ]


def draw(title: str, boxes: list[Box], output: RequestOutput) -> str:
    """The boxes as lines of text, in one SVG that is legible on light and dark pages."""
    last = max(box.forward for box in boxes)
    parts: list[str] = []
    x, y, right = LEFT, 34, 0
    for box in boxes:
        if "\n" in box.text:
            x, y = LEFT, y + CELL_HEIGHT + 6
            continue
        width = round(len(box.text) * CHARACTER + 2 * PADDING)
        if x + width > WIDTH - LEFT:
            x, y = LEFT, y + CELL_HEIGHT + 6
        shade = (box.forward - 1) / max(1, last - 1)
        lightness = round(90 - 56 * shade)
        ink = "#10222b" if lightness > 55 else "#ffffff"
        stroke = ' stroke="#c2410c" stroke-width="2.5"' if box.revoked else ""
        parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{CELL_HEIGHT}" rx="4" '
            f'fill="hsl(200 55% {lightness}%)"{stroke}/>'
            f'<text x="{x + width / 2:g}" y="{y + 15}" fill="{ink}">{escape(box.text)}</text>'
            f'<text x="{x + width / 2:g}" y="{y + 28}" class="n" fill="{ink}">{box.forward}</text>'
        )
        x += width + 3
        right = max(right, x)
    height = y + CELL_HEIGHT + 8
    caption = f"{title}: {output.nfe} forwards, {output.tpf:.1f} tokens per forward"
    width = max(right, round(LEFT + CHARACTER * len(caption))) + LEFT
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-label="{escape(caption)}">'
        "<style>text{font:12px ui-monospace,Menlo,Consolas,monospace;text-anchor:middle}"
        ".n{font-size:9px;opacity:.85}.c{font:600 13px system-ui,sans-serif;text-anchor:start;"
        "fill:#4b5b66}</style>"
        f'<text x="{LEFT}" y="20" class="c">{escape(caption)}</text>{"".join(parts)}</svg>\n'
    )


def main() -> None:
    """Write all pictures."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--problem", type=int, default=0, help="which of the shipped chains")
    args = parser.parse_args()
    rows = [json.loads(line) for line in PROBLEMS.read_text(encoding="utf-8").splitlines()]
    prompt = [row["prompt"] for row in rows if row["task"] == "chains"][args.problem]
    llm = LLM("tiny-llada", device="cpu", dtype="float32")
    FOLDER.mkdir(parents=True, exist_ok=True)
    for family, (name, policy_args) in FAMILIES.items():
        params = SamplingParams(
            max_tokens=64,
            block_length=32,
            remasking=name,
            remasking_args=policy_args,
            cache="none",
            trace=True,
        )
        output = llm.generate(prompt, params)[0]
        title = " ".join([name, *(f"{key}={value}" for key, value in policy_args.items())])
        (FOLDER / f"{family}.svg").write_text(
            draw(title, boxes_of(llm, output), output), encoding="utf-8"
        )
        print(f"{family}: {title}, NFE {output.nfe}, {output.text!r}")


if __name__ == "__main__":
    main()
