"""The table of docs/tasks.md from its result file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

NAME: Final = "harder-tasks"


def task_table(results: Path) -> str:
    """Accuracy with its interval, by set, model and policy."""
    path = results / "harder_tasks.json"
    if not path.exists():
        return "Not measured yet: `python -m benchmarks.harder_tasks`.\n"
    result = json.loads(path.read_text())
    cells = {(row["set"], row["model"], row["remasking"]): row for row in result["rows"]}
    columns = list(dict.fromkeys((model, policy) for _, model, policy in cells))
    lines = [
        f"| task | {' | '.join(f'{model}, {policy}' for model, policy in columns)} |",
        f"|---|{'---|' * len(columns)}",
    ]
    for name in dict.fromkeys(name for name, _, _ in cells):
        shown = [_share(cells[name, model, policy]) for model, policy in columns]
        lines.append(f"| `{name}` | {' | '.join(shown)} |")
    return "\n".join(lines) + f"\n\n{_how(result)}"


def _share(row: Mapping[str, Any]) -> str:
    low, high = row["accuracy_interval"]
    return f"{row['accuracy']:.0%} ({low * 100:.0f}-{high * 100:.0f})"


def _how(result: Mapping[str, Any]) -> str:
    setting, where = result["setting"], result["environment"]
    return (
        f"Share of {setting['num_problems']} problems of the split `{setting['split']}`, in "
        f"brackets the 95 % interval.\nCache {setting['cache']}, {setting['dtype']}, "
        f"{where['cpu']}, torch {where['versions']['torch']}, {where['date'][:10]}, commit\n"
        f"{where['commit'][:7]}; `benchmarks/results/harder_tasks.json`.\n"
    )
