"""How often a gap in an unseen answer is filled exactly as the answer was.

One to six tokens are cut out of the right answer of each problem, at a random place that is neither
its first nor its last token. Settings: the length given; given, without the end token behind the
suffix; the length searched from 1 to 8; and the same search by the confidence of the gap alone,
without asking again for the tokens behind it.

    python -m benchmarks.bench_infilling [--problems 40] [--output FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import write_result
from starr_engine import LLM, RequestOutput
from starr_engine.study.tasks import TASKS, Task, make_problems

LONGEST_CUT, SEARCHED = 6, range(1, 9)
END = "<|endoftext|>"

Ids = tuple[int, ...]
Cut = tuple[list[int], Ids, list[int]]
"""What stands in front of the gap, in it, and behind it."""


def make_cuts(llm: LLM, task: Task, count: int) -> list[Cut]:
    """A gap in each of ``count`` test problems."""
    rng = np.random.default_rng(1)
    encode, cuts = llm.tokenizer.encode_part, []
    for problem in make_problems(task, "test", count, seed=11):
        question, answer = encode(problem.prompt), encode(problem.reference)
        length = min(int(rng.integers(1, LONGEST_CUT + 1)), len(answer) - 2)
        start = int(rng.integers(1, len(answer) - length))
        stop = start + length
        cuts.append((question + answer[:start], tuple(answer[start:stop]), answer[stop:]))
    return cuts


def as_prompt(cut: Cut, gap: int | tuple[int, int], end: list[int]) -> dict[str, Any]:
    """The cut as ``LLM.generate`` takes it."""
    front, _, behind = cut
    return {"prefix_token_ids": front, "suffix_token_ids": behind + end, "gap": gap}


def score(cuts: Sequence[Cut], outputs: Sequence[RequestOutput]) -> dict[str, float]:
    """How many gaps are filled exactly, and at what cost."""
    return {
        "exact": sum(got.token_ids == cut[1] for cut, got in zip(cuts, outputs, strict=True)),
        "nfe": sum(got.nfe for got in outputs) / len(outputs),
        "total_nfe": sum(got.total_nfe for got in outputs) / len(outputs),
        "tpf": sum(got.num_unmasked for got in outputs) / sum(got.nfe for got in outputs),
    }


def measure(llm: LLM, task: Task, count: int) -> dict[str, dict[str, float]]:
    """All settings on one task."""
    cuts, end = make_cuts(llm, task, count), llm.tokenizer.encode_part(END)
    lengths = [len(missing) for _, missing, _ in cuts]
    pairs = list(zip(cuts, lengths, strict=True))
    both_ends = (SEARCHED[0], SEARCHED[-1])
    every_length = llm.generate([as_prompt(cut, gap, end) for cut in cuts for gap in SEARCHED])
    tried = [
        every_length[at : at + len(SEARCHED)] for at in range(0, len(every_length), len(SEARCHED))
    ]
    most_confident = [
        replace(best, search_nfe=sum(each.nfe for each in group) - best.nfe)
        for group in tried
        for best in [max(group, key=lambda got: got.mean_log_confidence or 0.0)]
    ]
    return {
        "given": score(cuts, llm.generate([as_prompt(cut, gap, end) for cut, gap in pairs])),
        "given, no end": score(cuts, llm.generate([as_prompt(cut, gap, []) for cut, gap in pairs])),
        "searched": score(cuts, llm.generate([as_prompt(cut, both_ends, end) for cut in cuts])),
        "searched by the gap alone": score(cuts, most_confident),
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=40, help="of each task")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    llm = LLM("tiny-llada", device="cpu", dtype="float32")
    tasks = {name: measure(llm, task, args.problems) for name, task in TASKS.items()}
    write_result("infilling", {"problems": args.problems, "tasks": tasks}, args.output)


if __name__ == "__main__":
    main()
