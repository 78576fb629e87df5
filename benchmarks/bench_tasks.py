"""How many problems of the harder built-in tasks the shipped models solve.

python -m benchmarks.bench_tasks [--num-problems 200] [--models tiny-llada tiny-sdar]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any, Final

from benchmarks.harness import write_result
from starr_engine import LLM, SamplingParams
from starr_engine.models.loading.locate import shipped_models
from starr_engine.study.intervals import wilson_interval
from starr_engine.study.problem_sets import PROBLEM_SETS
from starr_engine.study.tasks import ALL_TASKS, HARD_TASKS

REMASKING: Final = ("low_confidence", "threshold")


def measure(llm: LLM, name: str, remasking: str, args: argparse.Namespace) -> dict[str, Any]:
    """One set under one policy with its defaults and the model's own cache."""
    each = PROBLEM_SETS[name]
    problems = each.problems("test", args.num_problems, args.seed)
    params = SamplingParams(
        max_tokens=each.max_tokens,
        block_length=llm.engine.spec.block_length or each.block_length,
        remasking=remasking,
    )
    outputs = llm.generate([problem.prompt for problem in problems], params)
    solved = ALL_TASKS[each.task].score_many(problems, [output.text for output in outputs])
    accuracy = sum(solved) / len(solved)
    return {
        "set": name,
        "cache_label": outputs[0].cache_label,
        "remasking": remasking,
        "accuracy": accuracy,
        "accuracy_interval": wilson_interval(accuracy, len(solved)),
        "nfe": sum(output.nfe for output in outputs) / len(outputs),
    }


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--models", nargs="+", default=list(shipped_models()))
    parser.add_argument("--sets", nargs="+", default=list(HARD_TASKS), choices=PROBLEM_SETS)
    parser.add_argument("--num-problems", type=int, default=200, help="of each set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    started = time.perf_counter()
    rows = []
    for model in args.models:
        llm = LLM(
            model, device="cpu", dtype="float32", max_num_requests=32, num_threads=args.threads
        )
        for name in args.sets:
            for remasking in REMASKING:
                row = {"model": model, **measure(llm, name, remasking, args)}
                rows.append(row)
                print(f"{model:10} {name:18} {remasking:14} {row['accuracy']:.3f}", flush=True)
    setting = {
        "num_problems": args.num_problems, "seed": args.seed, "split": "test", "cache": "auto",
        "dtype": "float32", "batch_size": 32,
    }  # fmt: skip
    wall_s = time.perf_counter() - started
    write_result("tasks", {"setting": setting, "wall_s": wall_s, "rows": rows}, args.output)


if __name__ == "__main__":
    main()
