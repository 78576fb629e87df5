"""What ``make demo`` shows: a batch job on the shipped model, and what it saves.

Runs ``starr-engine batch`` over the shipped problems four times: one token per step without a
cache, a static threshold, and STaRR, the latter two with the dual cache; and STaRR once more on the
block-causal model, whose cache is exact. Then prints one table and a few answers. The problems are
in nobody's training set.

    python examples/demo.py [--limit 60] [--output out/demo] [--result FILE]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starr_engine.study.tasks import TASKS, Problem

PACKAGE = Path(__file__).resolve().parent.parent / "starr_engine"
PROBLEMS = PACKAGE / "assets" / "problems.jsonl"
SHARED = ["--max-tokens", "64"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One row of the table."""

    name: str
    title: str
    flags: tuple[str, ...]
    model: tuple[str, ...] = ("--model", "tiny-llada", "--block-length", "32")

    @property
    def words(self) -> list[str]:
        """The command's arguments but for the files."""
        return ["batch", *self.model, *SHARED, *self.flags]


SETTINGS = (
    Setting(
        name="one-token-per-step",
        title="one token per step, no cache",
        flags=("--remasking", "low_confidence", "--cache", "none"),
    ),
    Setting(
        name="threshold",
        title="threshold 0.9, dual cache",
        flags=("--remasking", "threshold", "--remasking-arg", "threshold=0.9", "--cache", "dual"),
    ),
    Setting(
        name="starr",
        title="STaRR, dual cache",
        flags=("--remasking", "starr", "--cache", "dual"),
    ),
    Setting(
        name="starr-sdar",
        title="STaRR, exact cache, tiny-sdar",
        flags=("--remasking", "starr", "--cache", "block_causal"),
        model=("--model", "tiny-sdar"),
    ),
)


def main() -> None:
    """Run the jobs, score the answers, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, help="problems to run; default all")
    parser.add_argument("--output", type=Path, default=Path("out/demo"), help="folder for results")
    parser.add_argument("--result", type=Path, help="also write the table to this file, as JSON")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    lines = PROBLEMS.read_text().splitlines()[: args.limit]
    problems = [Problem(**json.loads(line)) for line in lines]
    source = args.output / "problems.jsonl"
    source.write_text("".join(line + "\n" for line in lines))

    rows = []
    for setting in SETTINGS:
        answers, totals = run_batch(setting, source, args.output)
        solved = score(problems, answers)
        rows.append(table_row(setting, problems, solved, totals))
    print_table(rows)
    print_answers(problems, answers, solved)
    print(f"\nEvery answer: {args.output}/*.jsonl. Try your own:")
    print(f"  {Path(sys.executable).parent}/starr-engine generate {problems[0].prompt!r}")
    if args.result is not None:
        sys.path.insert(0, str(PACKAGE.parent))  # for benchmarks/, which is not installed
        from benchmarks.harness import write_result

        write_result("demo", {"num_problems": len(problems), "rows": rows}, args.result)


def run_batch(
    setting: Setting, source: Path, folder: Path
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Run the command as a user would; returns the output rows and the run's totals."""
    output, summary = folder / f"{setting.name}.jsonl", folder / f"{setting.name}.summary.json"
    words = [*setting.words, "--input", str(source), "--output", str(output)]
    print(f"\n$ starr-engine {' '.join(words)}", flush=True)
    subprocess.run(
        [sys.executable, "-m", "starr_engine", *words, "--overwrite", "--summary", str(summary)],
        check=True,
    )
    return [json.loads(line) for line in output.open()], json.loads(summary.read_text())


def score(problems: list[Problem], answers: list[dict[str, Any]]) -> list[bool]:
    """Whether each answer solves its problem; code is run, in a restricted process."""
    solved: dict[int, bool] = {}
    for name, task in TASKS.items():
        mine = [at for at, problem in enumerate(problems) if problem.task == name]
        texts = [answers[at]["text"] or "" for at in mine]
        solved.update(zip(mine, task.score_many([problems[at] for at in mine], texts), strict=True))
    return [solved[at] for at in range(len(problems))]


def table_row(
    setting: Setting, problems: list[Problem], solved: list[bool], totals: dict[str, Any]
) -> dict[str, Any]:
    """What the table says of one setting."""
    by_task = {
        name: [
            right for problem, right in zip(problems, solved, strict=True) if problem.task == name
        ]
        for name in TASKS
    }
    return {
        "setting": setting.title,
        "command": f"starr-engine {' '.join(setting.words)}",
        "accuracy": sum(solved) / len(solved),
        "accuracy_by_task": {name: sum(each) / len(each) for name, each in by_task.items() if each},
        "nfe_per_request": totals["mean_nfe"],
        "tpf": totals["tpf"],
        "tokens_per_s": totals["tokens_per_s"],
        "wall_s": totals["wall_s"],
    }


def print_table(rows: list[dict[str, Any]]) -> None:
    """One line per setting; speed never without accuracy and forwards."""
    print(f"\n{'':31}{'accuracy':>10}{'NFE/request':>13}{'TPF':>7}{'tokens/s':>10}{'seconds':>9}")
    for row in rows:
        print(
            f"{row['setting']:31}{row['accuracy']:>10.1%}{row['nfe_per_request']:>13.1f}"
            f"{row['tpf']:>7.2f}{row['tokens_per_s']:>10.0f}{row['wall_s']:>9.1f}"
        )


def print_answers(
    problems: list[Problem], answers: list[dict[str, Any]], solved: list[bool]
) -> None:
    """The first problem of three tasks, with the answer as it came, right or wrong."""
    for name in ("word_problems", "code", "json_extraction"):
        at = next((at for at, problem in enumerate(problems) if problem.task == name), None)
        if at is None:
            continue
        print(f"\n--- {name}: {'solved' if solved[at] else 'not solved'}, NFE {answers[at]['nfe']}")
        print(f"{problems[at].prompt}\n\n    " + answers[at]["text"].replace("\n", "\n    "))


if __name__ == "__main__":
    main()
