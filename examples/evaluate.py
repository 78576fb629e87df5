"""Accuracy on problems of your own, with an interval, and whether two settings differ.

    python examples/evaluate.py [--problems mine.jsonl] [--limit 30]

A row has a ``prompt`` and a ``reference``. Without a file, the shipped word problems serve. An
answer is right if its last number is that of the reference. For many settings at once, and a
report, use ``starr-engine study`` (docs/study.md).
"""

from __future__ import annotations

import argparse
import json
from importlib.resources import files
from pathlib import Path

from starr_engine import LLM, SamplingParams
from starr_engine.study.grid.questions import is_right
from starr_engine.study.grid.significance import mcnemar
from starr_engine.study.intervals import wilson_interval

SETTINGS = {
    "one token per step": SamplingParams(remasking="low_confidence"),
    "four per step": SamplingParams(
        remasking="low_confidence", remasking_args={"tokens_per_step": 4}
    ),
    "STaRR": SamplingParams(remasking="starr"),
}
"""The first is what the others are compared with. All run under the model's default cache."""


def read_problems(path: Path | None) -> list[dict[str, str]]:
    """The rows of a file, or shipped ones."""
    if path is not None:
        lines = path.read_text(encoding="utf-8").splitlines()
    else:
        lines = (files("starr_engine") / "assets" / "problems.jsonl").read_text().splitlines()
        lines = [line for line in lines if '"task": "word_problems"' in line]
    return [json.loads(line) for line in lines]


def main() -> None:
    """Answer the problems under every setting, and print one line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=Path, help="JSONL with prompt and reference")
    parser.add_argument("--limit", type=int, default=30, help="problems to run")
    args = parser.parse_args()
    problems = read_problems(args.problems)[: args.limit]
    prompts = [row["prompt"] for row in problems]

    llm = LLM("tiny-llada")
    baseline: list[bool] = []
    print(f"{'':20} {'solved':>7} {'95 % interval':>17} {'NFE':>6} {'gained':>7} {'lost':>5}    p")
    for name, params in SETTINGS.items():
        outputs = llm.generate(prompts, params)
        solved = [
            is_right(output.text, [str(row["reference"])], "number")
            for row, output in zip(problems, outputs, strict=True)
        ]
        baseline = baseline or solved
        pairs = list(zip(baseline, solved, strict=True))
        gained, lost = pairs.count((False, True)), pairs.count((True, False))
        share = sum(solved) / len(solved)
        low, high = wilson_interval(share, len(solved))
        nfe = sum(output.nfe for output in outputs) / len(outputs)
        print(
            f"{name:20} {share:7.1%} {f'{low:.1%} to {high:.1%}':>17} {nfe:6.2f} {gained:>7} "
            f"{lost:>5} {mcnemar(gained, lost):.2g}"
        )


if __name__ == "__main__":
    main()
