"""Write the shipped problems: unseen in training, and not among the evaluation problems."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from starr_engine.study.tasks import TASKS, make_problems


def main() -> None:
    """Write problems as JSON lines, the tasks interleaved."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--per-task", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    columns = [make_problems(t, "demo", args.per_task, args.seed) for t in TASKS.values()]
    rows = [problem.to_row() for row in zip(*columns, strict=True) for problem in row]
    args.output.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
