"""``starr-engine study``: what caches and remasking policies buy, and what they cost."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any, Final

from starr_engine.cli.code_options import add_code_options, code_limits, code_words
from starr_engine.study.grid.axes import Grid
from starr_engine.study.grid.job import StudyJob, check_job
from starr_engine.study.grid.read import (
    make_grid,
    parse_choice,
    parse_task,
    parse_values,
    read_grids,
)
from starr_engine.study.grid.results import CellResult

_EPILOG: Final = """\
examples:
  starr-engine study examples/study.yaml --output out/study
  starr-engine study --model tiny-llada --cache none --cache dual --remasking low_confidence \\
      --remasking threshold:threshold=0.9 --task sorting --limit 20 --output out/small
  starr-engine study --task mine.jsonl:number --output out/mine
  starr-engine study --report-only --output out/study

the grid:
  Every combination of the axes is a cell. The first cache with the first remasking policy is the
  baseline that all others are compared with. Flags take the place of what a file says; several
  files are several grids in one study. docs/study.md lists the entries of a file.

interruption:
  Finished cells are kept in FOLDER/results.jsonl.partial. After Ctrl-C or a kill run the same
  command with --resume. A finished study grows with --resume and a larger grid.
"""

_AXES: Final = (
    ("--model", "models", str, "NAME", "a shipped model, a folder or a hub id"),
    ("--cache", "caches", str, "POLICY[:NAME=VALUE,...]", "a cache policy"),
    ("--remasking", "remasking", str, "POLICY[:NAME=VALUE,...]",
     "a remasking policy, or POLICY@FILE of a calibration"),
    ("--block-length", "block_lengths", int, "TOKENS", "positions that are denoised together"),
    ("--max-tokens", "max_tokens", int, "TOKENS", "longest output"),
    ("--batch-size", "batch_sizes", int, "N", "requests that run at once"),
    ("--seed", "seeds", int, "N", "of the problems that are drawn, and of the noise"),
    ("--shots", "shots", int, "N", "solved problems in front of each prompt"),
)  # fmt: skip
"""Flag, axis of the grid, kind of its values, and what help says."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of this command."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("grids", nargs="*", type=Path, metavar="GRID.yaml", help="files of grids")
    grid = parser.add_argument_group("grid; each flag can be repeated")
    for flag, name, kind, metavar, line in _AXES:
        grid.add_argument(
            flag, dest=name, action="append", type=kind, metavar=metavar, help=line
        )  # fmt: skip
    grid.add_argument(
        "--task",
        dest="tasks",
        action="append",
        metavar="TASK|FILE[:SCORER]",
        help="a shipped task, all of them, or a .jsonl or .parquet file of rows with a reference, "
        "scored by exact (the default), contains, number, task or, without references, agreement",
    )
    every = parser.add_argument_group("every cell")
    every.add_argument(
        "--limit", type=int, metavar="N", help="problems of each task (default: 100)"
    )
    every.add_argument(
        "--engine",
        action="append",
        metavar="NAME=VALUE",
        help="a field of EngineConfig, such as device=cuda or num_threads=1; repeatable",
    )
    every.add_argument(
        "--sampling",
        action="append",
        metavar="NAME=VALUE",
        help="a field of SamplingParams, such as temperature=0.5 or ignore_eos=true; repeatable",
    )
    add_code_options(parser)
    _add_job(parser.add_argument_group("study"))


def _add_job(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="where results.jsonl, report.html, report.md and report.csv go",
    )
    group.add_argument(
        "--resume",
        action="store_true",
        help="keep the cells that are there and run those that are missing",
    )
    group.add_argument("--overwrite", action="store_true", help="replace an existing study")
    group.add_argument(
        "--retry-failed",
        action="store_true",
        help="with --resume: run those cells again that have a reason instead of numbers",
    )
    group.add_argument(
        "--report-only",
        action="store_true",
        help="run nothing, write the report of the cells that are there",
    )
    group.add_argument("--quiet", action="store_true", help="print no line for each cell")


def run(args: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        StarrError: If a grid cannot be run, or the study is interrupted.
    """
    from starr_engine.study.report.figures import check_drawing
    from starr_engine.study.report.page import note_command, write_report

    check_drawing()
    if not args.report_only:
        job = StudyJob(
            grids=grids_of(args),
            folder=args.output,
            resume=args.resume,
            overwrite=args.overwrite,
            retry_failed=args.retry_failed,
            code=code_limits(args),
        )
        check_job(job)
        from starr_engine.study.grid.run import run_study

        note_command(args.output, command_of(args), is_first=not args.resume)
        run_study(job, on_cell=(lambda *told: None) if args.quiet else show)
    page = write_report(args.output)
    if not args.quiet:
        print(f"{page}: the report; report.md, report.csv and cells.csv are beside it")


def command_of(args: argparse.Namespace) -> str:
    """What was asked, as one would type it anew."""
    words = ["starr-engine", "study", *map(str, args.grids)]
    flags = [(flag, name) for flag, name, *_ in _AXES]
    for flag, name in (*flags, ("--task", "tasks"), ("--limit", "limit"), ("--engine", "engine"),
                       ("--sampling", "sampling"), ("--output", "output")):  # fmt: skip
        values = getattr(args, name)
        for value in values if isinstance(values, list) else [values]:
            words += [] if value is None else [flag, str(value)]
    return shlex.join([*words, *code_words(args)])


def grids_of(args: argparse.Namespace) -> tuple[Grid, ...]:
    """The grids of the files, with the flags in place of what they say; or of the flags alone.

    Raises:
        ConfigError: If a file or a flag cannot be used.
    """
    changes: dict[str, Any] = {
        name: values for _, name, *_ in _AXES if (values := getattr(args, name)) is not None
    }
    # What is typed lies where the caller is, not where a grid's file is.
    for name in ("caches", "remasking"):
        if name in changes:
            changes[name] = [parse_choice(text) for text in changes[name]]
    if args.tasks is not None:
        changes["tasks"] = [each for text in args.tasks for each in parse_task(_task(text))]
    if args.limit is not None:
        changes["num_problems"] = args.limit
    for name in ("engine", "sampling"):
        if (entries := getattr(args, name)) is not None:
            changes[name] = parse_values(f"--{name}", entries)
    if not args.grids:
        return (make_grid(changes),)
    return tuple(each for path in args.grids for each in read_grids(path, changes))


def show(result: CellResult, number: int, total: int) -> None:
    """One line for a finished cell."""
    cell, found = result.cell, result.measured
    where = f"[{number}/{total}] {cell.model}  {cell.task.name}  {cell.cache}  {cell.remasking}"
    if found is None:
        print(f"{where}: not run: {result.error}", file=sys.stderr, flush=True)
        return
    low, high = found.accuracy_interval
    print(
        f"{where}: accuracy {found.accuracy:.3f} [{low:.3f}, {high:.3f}], NFE {found.nfe:.2f}, "
        f"TPF {found.tpf:.2f}, batch {cell.batch_size}, {found.timing.tokens_per_s:.0f} tokens/s",
        flush=True,
    )


def _task(text: str) -> object:
    path, _, scorer = text.partition(":")
    return {"file": path, "scorer": scorer} if scorer else text
