"""``starr-engine calibrate``: a policy's arguments from the user's own prompts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from starr_engine.cli.options import (
    add_engine_options,
    add_sampling_options,
    engine_options,
    sampling_params,
)
from starr_engine.errors import ConfigError
from starr_engine.study.calibration.job import CalibrationJob, check_job
from starr_engine.study.calibration.outcomes import Goal
from starr_engine.study.calibration.report import as_text
from starr_engine.study.calibration.search import SearchPlan

_EPILOG: Final = """\
how it works:
  The prompts are split. On one part many settings are tried on few prompts and the promising ones
  on more; the cheapest that reaches the goal there is chosen. Setting, front and defaults are then
  measured on the other part. docs/calibration.md says how to read the numbers.

use:
  starr-engine calibrate --prompts mine.jsonl --policy starr --min-agreement 0.98 --output my.json
  starr-engine batch --remasking starr@my.json --input ... --output ...
  A --remasking-arg keeps its value and is not searched.

interruption:
  Finished evaluations are kept in OUTPUT.partial. After Ctrl-C or a kill run the same command with
  --resume. Another goal, --search-seed or number of settings can use them too.
"""

_PLAN: Final = SearchPlan()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of this command."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    group = parser.add_argument_group("calibration")
    group.add_argument(
        "--prompts",
        required=True,
        metavar="FILE|SET",
        help=".jsonl or .parquet with rows as `starr-engine batch` reads them; or the problems of "
        "the shipped tasks: shipped, all, or names with commas such as sorting,code",
    )
    group.add_argument(
        "--policy",
        dest="remasking",
        metavar="POLICY",
        default=argparse.SUPPRESS,
        help="the remasking policy to calibrate; another name for --remasking",
    )
    goal = group.add_mutually_exclusive_group(required=True)
    goal.add_argument(
        "--min-agreement",
        type=float,
        metavar="SHARE",
        help="least agreement with one token per step under the same cache",
    )
    goal.add_argument(
        "--min-accuracy",
        type=float,
        metavar="SHARE",
        help="least share of solved prompts; takes the problems of a shipped task",
    )
    group.add_argument(
        "--agreement",
        choices=("prompts", "tokens"),
        help="what --min-agreement means: the share of prompts with identical outputs (the "
        "default), or the mean share of equal tokens",
    )
    group.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="the policy file (default: the policy's name with .json)",
    )
    group.add_argument(
        "--space",
        action="append",
        default=[],
        metavar="NAME=RANGE",
        help="search this argument in LOW:HIGH, LOW:HIGH:log or VALUE,VALUE,...; repeatable",
    )
    group.add_argument(
        "--max-prompts",
        type=int,
        default=200,
        metavar="N",
        help="draw this many of more prompts (default: %(default)s)",
    )
    group.add_argument(
        "--held-out",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="of the prompts, which only the report sees (default: %(default)s)",
    )
    group.add_argument(
        "--settings",
        type=int,
        default=_PLAN.num_settings,
        metavar="N",
        help="drawn from the whole space (default: %(default)s)",
    )
    group.add_argument(
        "--rounds",
        type=int,
        default=_PLAN.num_rounds,
        metavar="N",
        help="of settings near the best ones (default: %(default)s)",
    )
    group.add_argument(
        "--search-seed",
        type=int,
        default=_PLAN.seed,
        metavar="N",
        help="of the split and of the settings; equal seeds give equal results "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--resume",
        action="store_true",
        help="continue an interrupted run; refuses other prompts or another decoding",
    )
    group.add_argument(
        "--overwrite",
        action="store_true",
        help="replace an existing output once the new one is complete, and drop an unfinished "
        "run unless --resume is given",
    )
    group.add_argument("--quiet", action="store_true", help="no progress bar and no table")
    add_sampling_options(parser)
    add_engine_options(parser)


def run(args: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        StarrError: If the job cannot run, finds nothing, or is interrupted.
    """
    if "@" in args.remasking:
        raise ConfigError(
            f"--policy takes a name, got {args.remasking!r}: the arguments are what is searched"
        )
    params = sampling_params(args)
    job = CalibrationJob(
        prompts=args.prompts,
        output=args.output or Path(f"{params.remasking}.json"),
        goal=_goal(args),
        params=params,
        space=tuple(args.space),
        plan=SearchPlan(num_settings=args.settings, num_rounds=args.rounds, seed=args.search_seed),
        max_prompts=args.max_prompts,
        held_out=args.held_out,
        resume=args.resume,
        overwrite=args.overwrite,
        progress=not args.quiet,
    )
    check_job(job)  # before the model takes its time to load
    from starr_engine.llm import LLM
    from starr_engine.study.calibrate import run_calibration

    report = run_calibration(LLM(**engine_options(args)), job)
    if not args.quiet:
        print(as_text(report))
        print(f"{job.output}: use it with --remasking {params.remasking}@{job.output}")


def _goal(args: argparse.Namespace) -> Goal:
    if args.min_accuracy is not None:
        if args.agreement is not None:
            raise ConfigError("--agreement says what --min-agreement means; leave it out here")
        return Goal(measure="accuracy", least=args.min_accuracy)
    return Goal(measure=args.agreement or "prompts", least=args.min_agreement)
