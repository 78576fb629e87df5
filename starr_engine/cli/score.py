"""``starr-engine score``: which answers of a batch job are right."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Final

from starr_engine.cli.code_options import add_code_options, code_limits
from starr_engine.errors import ConfigError
from starr_engine.offline.reader import open_source
from starr_engine.study.intervals import wilson_interval
from starr_engine.study.scoring import score_rows

_EPILOG: Final = """\
programs:
  HumanEval and MBPP are scored by running what the model wrote. That happens only with --run-code:
  in a process without network, processes of its own or a disk to write to, under limits; where the
  kernel cannot fence it, nothing runs. docs/tasks.md says what the fences are and are not.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of this command."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--input", type=Path, required=True, metavar="FILE",
                        help="what `starr-engine batch` wrote for rows of `problems`")  # fmt: skip
    parser.add_argument("--output", type=Path, metavar="FILE",
                        help=".jsonl: id, task and is_right of every row")  # fmt: skip
    add_code_options(parser)


def run(args: argparse.Namespace) -> int:
    """Score and print."""
    code = code_limits(args)
    rows = [raw.columns for raw in open_source(args.input).rows()]
    if not rows:
        raise ConfigError(f"{args.input} has no row")
    solved = score_rows(rows, str(args.input), code)
    if args.output:
        lines = [
            json.dumps({"id": row["id"], "task": row["task"], "is_right": is_right})
            for row, is_right in zip(rows, solved, strict=True)
        ]
        args.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    asked = Counter(str(row["task"]) for row in rows)
    right = Counter(str(row["task"]) for row, each in zip(rows, solved, strict=True) if each)
    width = max(map(len, asked))
    for task, count in asked.items():
        low, high = wilson_interval(right[task] / count, count)
        print(f"{task:{width}}  {right[task]:5} of {count:5}  {right[task] / count:6.1%}  "
              f"(95 % interval {low:.1%} to {high:.1%})")  # fmt: skip
    return 0
