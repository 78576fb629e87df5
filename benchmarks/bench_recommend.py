"""Whether a recommended setting holds on problems that did not choose it.

python -m benchmarks.bench_recommend [--num-prompts 64] [--num-fresh 200]

For every model, set and objective a recommendation is made as ``starr-engine recommend`` makes it;
then baseline, default and recommended setting run on other problems of the same set.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, get_args

from benchmarks.harness import write_result
from starr_engine.cli.main import make_parser
from starr_engine.cli.recommend import search_of
from starr_engine.models.loading.locate import shipped_models
from starr_engine.study.grid.job import StudyJob
from starr_engine.study.problem_sets import PROBLEM_SETS
from starr_engine.study.recommend.choose import Recommendation
from starr_engine.study.recommend.goal import Objective
from starr_engine.study.recommend.record import record_of, verdict_record
from starr_engine.study.recommend.rounds import Search
from starr_engine.study.recommend.run import run_recommendation

SETS: Final = ("long_chains", "reworded_problems")


def measure(search: Search, num_fresh: int) -> dict[str, Any]:
    """One recommendation, and the same settings on fresh problems."""
    found = _run(search)
    row: dict[str, Any] = {"recommendation": record_of(found), "fresh": None}
    if found.chosen is not None:
        candidates = {str(each): each for each in (search.default, found.chosen.candidate)}
        fresh = replace(
            search,
            template=replace(search.template, seed=search.template.seed + 1),
            candidates=tuple(candidates.values()),
            num_prompts=num_fresh,
        )
        wanted = found.chosen.candidate
        row["fresh"] = next(
            verdict_record(each) for each in _run(fresh).judged.verdicts if each.candidate == wanted
        )
    return row


def _run(search: Search) -> Recommendation:
    with tempfile.TemporaryDirectory() as folder:
        job = StudyJob(grids=(search,), folder=Path(folder), with_drift=False)
        return run_recommendation(search, job)


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--models", nargs="+", default=list(shipped_models()))
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=PROBLEM_SETS)
    parser.add_argument("--objectives", nargs="+", default=list(get_args(Objective)))
    parser.add_argument("--num-prompts", type=int, default=64)
    parser.add_argument("--num-fresh", type=int, default=200, help="problems that did not choose")
    parser.add_argument("--max-loss", type=float, default=0.02)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    started = time.perf_counter()
    rows = []
    for model in args.models:
        for name in args.sets:
            for objective in args.objectives:
                flags = [
                    f"--model={model}", f"--prompts={name}", f"--objective={objective}",
                    f"--num-prompts={args.num_prompts}", f"--max-loss={args.max_loss}",
                    "--engine=device=cpu", f"--engine=num_threads={args.threads}",
                ]  # fmt: skip
                search = search_of(make_parser("recommend").parse_args(["recommend", *flags]))
                row = {"model": model, "set": name, "objective": objective}
                row |= {"num_tried": len(search.candidates), **measure(search, args.num_fresh)}
                rows.append(row)
                chosen = row["recommendation"]["recommended"]
                print(model, name, objective, chosen and chosen["setting"], flush=True)
    setting = {"num_prompts": args.num_prompts, "num_fresh": args.num_fresh,
               "max_loss": args.max_loss}  # fmt: skip
    wall_s = time.perf_counter() - started
    write_result("recommend", {"setting": setting, "wall_s": wall_s, "rows": rows}, args.output)


if __name__ == "__main__":
    main()
