"""``starr-engine problems``: rows to be answered and scored, from a task or a published file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Final, get_args

from starr_engine.errors import ConfigError
from starr_engine.study.problem_sets import PROBLEM_SETS
from starr_engine.study.published import PUBLISHED, Style, published_tasks, read_problems
from starr_engine.study.tasks import Problem, Split

_EPILOG: Final = """\
use:
  starr-engine problems long_chains --num-problems 200 --output rows.jsonl
  starr-engine problems gsm8k --input test.jsonl --examples train.jsonl --output rows.jsonl
  starr-engine batch --model M --input rows.jsonl --output answers.jsonl --max-tokens 256
  starr-engine score --input answers.jsonl
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of this command."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "task",
        choices=(*PROBLEM_SETS, *PUBLISHED),
        metavar="TASK",
        help=f"built in: {', '.join(PROBLEM_SETS)}; published: {', '.join(PUBLISHED)}",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help=".jsonl")
    parser.add_argument(
        "--num-problems", type=int, metavar="N", help="default: 100, or all of a published file"
    )
    built_in = parser.add_argument_group("built-in tasks")
    built_in.add_argument("--split", choices=get_args(Split), help="default: test")
    built_in.add_argument("--seed", type=int, help="equal seeds give equal problems (default: 0)")
    published = parser.add_argument_group("published files")
    published.add_argument(
        "--input",
        type=Path,
        metavar="FILE",
        help=".jsonl, .jsonl.gz, .json or .parquet, or MATH's folder",
    )
    published.add_argument(
        "--shots",
        type=int,
        metavar="N",
        help="solved examples before each prompt (default: the task's own)",
    )
    published.add_argument(
        "--examples",
        type=Path,
        metavar="FILE",
        help="where these come from, such as the training split",
    )
    published.add_argument(
        "--style",
        choices=get_args(Style),
        help="completion (default) for base models; chat writes messages",
    )


def run(args: argparse.Namespace) -> int:
    """Write the rows."""
    if args.output.suffix != ".jsonl":
        raise ConfigError(f"--output {args.output}: the suffix must be .jsonl")
    if args.num_problems is not None and args.num_problems < 1:
        raise ConfigError(f"--num-problems must be at least 1, got {args.num_problems}")
    if args.task in PROBLEM_SETS:
        problems, max_tokens = _built_in(args)
    else:
        problems, max_tokens = _published(args)
    rows = [problem.to_row() for problem in problems]
    if args.style == "chat":
        for row in rows:
            row["messages"] = [{"role": "user", "content": row.pop("prompt")}]
    args.output.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print(f"{len(rows)} problems of {args.task} in {args.output}; answer with up to "
          f"{max_tokens} tokens (--max-tokens {max_tokens})")  # fmt: skip
    return 0


def _built_in(args: argparse.Namespace) -> tuple[list[Problem], int]:
    _refuse(args, "input", "shots", "examples", "style")
    each = PROBLEM_SETS[args.task]
    count = 100 if args.num_problems is None else args.num_problems
    return each.problems(args.split or "test", count, args.seed or 0), each.max_tokens


def _published(args: argparse.Namespace) -> tuple[list[Problem], int]:
    _refuse(args, "split", "seed")
    if args.input is None:
        raise ConfigError(f"{args.task} is read from its published file: give --input FILE")
    task = published_tasks()[args.task]
    style: Style = args.style or "completion"
    problems = read_problems(
        task, args.input, shots=args.shots, examples=args.examples, style=style
    )
    return problems[: args.num_problems], task.max_tokens


def _refuse(args: argparse.Namespace, *names: str) -> None:
    given = [f"--{name}" for name in names if getattr(args, name) is not None]
    if given:
        kind = "built-in" if args.task in PROBLEM_SETS else "published"
        raise ConfigError(f"{', '.join(given)} means nothing for the {kind} task {args.task}")
