"""Write the README's tables from the committed result files, or check that they agree.

python -m tools.update_readme [--check]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from tools import study_summary

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results"


def render(readme: str) -> str:
    """The README with every marked part as the result files have it."""
    for name, table in (("demo", demo_table), ("study", study_part), ("overhead", overhead_table)):
        begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
        head, _, rest = readme.partition(begin)
        _, _, tail = rest.partition(end)
        readme = head + begin + table() + end + tail
    return readme


def demo_table() -> str:
    """Accuracy, forwards and speed of the settings of ``make demo``."""
    result = _load("demo.json")
    tasks = list(result["rows"][0]["accuracy_by_task"])
    lines = [
        "| setting | accuracy | NFE per request | TPF | tokens/s | "
        + " | ".join(name.replace("_", " ") for name in tasks)
        + " |",
        "|---|" + "---|" * (4 + len(tasks)),
    ]
    for row in result["rows"]:
        by_task = " | ".join(f"{row['accuracy_by_task'][name]:.0%}" for name in tasks)
        lines.append(
            f"| {row['setting']} | {row['accuracy']:.1%} | {row['nfe_per_request']:.1f} "
            f"| {row['tpf']:.2f} | {row['tokens_per_s']:.0f} | {by_task} |"
        )
    return (
        "\n".join(lines)
        + "\n\n`make demo`: tiny-llada (block 32; tiny-sdar: 16) in float32, "
        + f"{result['num_problems']} unseen problems,\n"
        + f"64 new tokens, batch 16, {_machine(result)}\n"
        + "([result](benchmarks/results/demo.json)).\n"
    )


def study_part() -> str:
    """What the full study of the shipped models found."""
    return study_summary.found("docs/images/")


def overhead_table() -> str:
    """The engine against the bare loop."""
    result = _load("engine_overhead.json")
    lines = [
        "| batch | cache | engine, ms per step | bare loop, ms per step | difference |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['batch']} | {row['cache']} | {row['engine_step_ms']:.2f} "
        f"| {row['bare_step_ms']:.2f} | {row['overhead']:+.1%} |"
        for row in result["rows"]
    ]
    larger = _load("engine_overhead_50m.json")
    by_batch = " and ".join(
        f"{row['overhead']:+.1%} at batch {row['batch']}" for row in larger["rows"]
    )
    return (
        "Against a bare loop over dense tensors with the same forwards and the same outputs, one\n"
        "token per step (`python -m benchmarks.bench_engine_overhead`):\n\n"
        + "\n".join(lines)
        + f"\n\nMedians of {result['setting']['repeats']} runs in turns, {_machine(result)}\n"
        + "([result](benchmarks/results/engine_overhead.json)). The shipped model is so small\n"
        + "that Python shows; on 50 M parameters with cache `dual` the difference is\n"
        + f"{by_batch} ([result](benchmarks/results/engine_overhead_50m.json)).\n"
    )


def _machine(result: dict[str, Any]) -> str:
    environment = result["environment"]
    return (
        f"{environment['cpu']}, {environment['num_threads']} threads, "
        f"torch {environment['versions']['torch']}"
    )


def _load(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((RESULTS / name).read_text())
    return loaded


def main() -> int:
    """Rewrite, or with ``--check`` say whether it is needed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if outdated")
    args = parser.parse_args()
    before = README.read_text()
    after = render(before)
    if args.check:
        return int(before != after)
    README.write_text(after)
    return 0


if __name__ == "__main__":
    sys.exit(main())
