"""``starr-engine recommend``: the settings to use for a model, prompts and a limit."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Final, get_args

from starr_engine.cli.code_options import add_code_options, code_limits
from starr_engine.config import EngineConfig
from starr_engine.study.grid.axes import NO_SHARING, Cell
from starr_engine.study.grid.job import StudyJob, check_job
from starr_engine.study.grid.read import make_grid, parse_values
from starr_engine.study.grid.results import CellResult
from starr_engine.study.recommend.candidates import (
    BASELINE,
    Candidate,
    candidates_for,
    parse_candidates,
    traits_of,
)
from starr_engine.study.recommend.goal import Goal, Objective
from starr_engine.study.recommend.rounds import Search
from starr_engine.study.recommend.run import (
    EXIT_NOT_REACHED,
    POLICY,
    RECORD,
    NothingFitsError,
    read_task,
    run_recommendation,
)
from starr_engine.study.recommend.text import as_text, why_nothing_fits

DEFAULT_LOSS: Final = 0.02
DEFAULT_PROMPTS: Final = 64
MOST_PROMPTS: Final = 1000
"""With a budget, however much of it is left."""

_BATCH: Final = {"latency": 1, "throughput": 16}

_EPILOG: Final = f"""\
examples:
  starr-engine recommend --prompts mine.jsonl --objective latency
  starr-engine recommend --prompts mine.jsonl:number --objective throughput --max-loss 0.01 --sure
  starr-engine recommend --prompts sorting --objective latency --min-accuracy 0.9 --budget 5

what it does:
  Tries about twenty settings of cache and remasking on few prompts, and the promising ones on more;
  compares them with no cache and one token per step on the same prompts; prints the fastest within
  the limit, how sure that is, and the commands that use it. docs/recommend.md says how to read it.

exit code: 0; {EXIT_NOT_REACHED} if no setting is within the limit; 2 for other errors.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of this command."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    group = parser.add_argument_group("what is wanted")
    group.add_argument(
        "--model",
        default=EngineConfig().model,
        help="a shipped model, a folder or a hub id (default: %(default)s)",
    )
    group.add_argument(
        "--prompts",
        required=True,
        metavar="FILE[:SCORER]|TASK",
        help="rows with a prompt, of .jsonl or .parquet, and a reference if there is one, scored "
        "by exact (the default), contains, number or task; without references, or with agreement, "
        "outputs are compared with the baseline's; or a shipped task",
    )
    group.add_argument("--objective", required=True, choices=get_args(Objective),
                       help="what should be short: one request, or all of them")  # fmt: skip
    limit = group.add_mutually_exclusive_group()
    limit.add_argument("--min-accuracy", type=float, metavar="SHARE",
                       help="least share of prompts that are solved")  # fmt: skip
    limit.add_argument(
        "--max-loss",
        type=float,
        metavar="SHARE",
        help="most by which accuracy may be below that of the baseline, no cache and one token per "
        f"step (default: {DEFAULT_LOSS}, two points)",
    )
    group.add_argument("--sure", action="store_true",
                       help="the whole 95 %% interval must lie within the limit")  # fmt: skip
    _add_decoding(parser.add_argument_group("how outputs are decoded"))
    _add_search(parser.add_argument_group("search"))
    add_code_options(parser)


def _add_decoding(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--batch-size", type=int, metavar="N",
                       help="requests at once (default: 1 for latency, else 16)")  # fmt: skip
    group.add_argument("--max-tokens", type=int, metavar="TOKENS",
                       help="longest output (default: 64, or the task's own)")  # fmt: skip
    group.add_argument("--block-length", type=int, metavar="TOKENS",
                       help="denoised together (default: the model's own, or 32)")  # fmt: skip
    group.add_argument("--engine", action="append", default=[], metavar="NAME=VALUE",
                       help="a field of EngineConfig, such as device=cuda; repeatable")  # fmt: skip
    group.add_argument("--sampling", action="append", default=[], metavar="NAME=VALUE",
                       help="a field of SamplingParams, such as temperature=0.5; "
                       "repeatable")  # fmt: skip


def _add_search(group: argparse._ArgumentGroup) -> None:
    size = group.add_mutually_exclusive_group()
    size.add_argument("--num-prompts", type=int, metavar="N",
                      help="of the last round; of a longer file so many are drawn "
                      f"(default: {DEFAULT_PROMPTS})")  # fmt: skip
    size.add_argument("--budget", type=float, metavar="MINUTES",
                      help="of measuring: as many prompts as fit; loading is not counted, and the "
                      "first round runs in any case")  # fmt: skip
    group.add_argument("--candidate", nargs=2, action="append", metavar=("CACHE", "REMASKING"),
                       help="try these instead of the built-in list, written as "
                       "dual:refresh_every=4 and starr@FILE; repeatable")  # fmt: skip
    group.add_argument("--seed", type=int, default=0, metavar="N",
                       help="of what is drawn, prompts and noise (default: 0)")  # fmt: skip
    group.add_argument("--output", type=Path, default=Path("recommend"), metavar="FOLDER",
                       help="results.jsonl, recommendation.json and policy.json go there "
                       "(default: %(default)s)")  # fmt: skip
    group.add_argument("--resume", action="store_true",
                       help="use what is measured there, for another limit or more prompts, "
                       "too")  # fmt: skip
    group.add_argument("--overwrite", action="store_true", help="replace what is measured there")
    group.add_argument("--json", action="store_true",
                       help="print one JSON object in place of the text")  # fmt: skip
    group.add_argument("--quiet", action="store_true", help="print no line for each setting")


def run(args: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        StarrError: If it cannot run, is interrupted, or no setting is within the limit.
    """
    search = search_of(args)
    job = StudyJob(
        grids=(search,),
        folder=args.output,
        resume=args.resume,
        overwrite=args.overwrite,
        retry_failed=args.resume,
        with_drift=False,
        code=code_limits(args),
    )
    check_job(job)  # before the model takes its time to load
    found = run_recommendation(
        search, job, on_cell=(lambda *told: None) if args.quiet else show
    )  # fmt: skip
    if args.json:
        from starr_engine.study.recommend.record import record_of

        print(json.dumps(record_of(found)), flush=True)
    else:
        print(as_text(found), flush=True)
    if found.chosen is None:
        raise NothingFitsError(why_nothing_fits(found))
    if not args.json:
        name = found.chosen.candidate.remasking.name
        print(f"\n{args.output / POLICY}: for --remasking {name}@FILE; {RECORD}: all numbers")
        print(f"starr-engine study --report-only --output {args.output} draws them")


def search_of(args: argparse.Namespace) -> Search:
    """What the flags ask for.

    Raises:
        StarrError: If they cannot be used, or the model is not found.
    """
    engine = parse_values("--engine", args.engine)
    sampling = parse_values("--sampling", args.sampling)
    prompts = read_task(args.prompts)
    max_tokens = prompts.max_tokens if args.max_tokens is None else args.max_tokens
    batch = _BATCH[args.objective] if args.batch_size is None else args.batch_size
    # A grid of one cell checks all that is common to the cells.
    [template] = make_grid(
        {
            "models": args.model, "tasks": prompts.task, "caches": BASELINE.cache,
            "remasking": BASELINE.remasking, "max_tokens": max_tokens, "batch_sizes": batch,
            "block_lengths": args.block_length, "seeds": args.seed, "num_problems": 1,
            "engine": engine, "sampling": sampling,
        }
    ).cells()  # fmt: skip
    traits = traits_of(EngineConfig.from_options(model=args.model, **{**NO_SHARING, **engine}))
    loss = args.max_loss
    if args.min_accuracy is None and loss is None:
        loss = DEFAULT_LOSS
    wanted = DEFAULT_PROMPTS if args.budget is None else MOST_PROMPTS
    if args.num_prompts is not None:
        wanted = args.num_prompts
    goal = Goal(
        objective=args.objective,
        least_accuracy=args.min_accuracy,
        most_loss=loss,
        needs_certainty=args.sure,
    )
    return Search(
        template=template,
        goal=goal.of_agreement() if prompts.task.scorer == "agreement" else goal,
        candidates=candidates_for(traits)
        if args.candidate is None
        else parse_candidates(args.candidate, traits),
        default=traits.default,
        num_prompts=wanted if prompts.num_rows is None else min(wanted, prompts.num_rows),
        budget_s=None if args.budget is None else 60 * args.budget,
    )


def show(result: CellResult, number: int, total: int) -> None:
    """One line for a finished cell, on standard error."""
    cell, found = result.cell, result.measured
    name = Candidate(cache=cell.cache, remasking=cell.remasking)
    said = f"[{number}/{total}] {cell.num_problems} prompts, {name}: "
    if found is None:
        said += f"not run: {result.error}"
    else:
        said += (
            f"{_measure(cell)} {100 * found.accuracy:.1f} %, {found.nfe:.1f} forwards, batch "
            f"{cell.batch_size}, {found.timing.latency_p50_s:.3g} s"
        )
    print(said, file=sys.stderr, flush=True)


def _measure(cell: Cell) -> str:
    return "agreement" if cell.task.scorer == "agreement" else "accuracy"
