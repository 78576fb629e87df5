"""Small tasks for lm-evaluation-harness in a folder, with their data beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from starr_engine.study.problem_sets import PROBLEM_SETS
from starr_engine.study.tasks import Problem

NUM_PROBLEMS = 6
UNTIL = "\n\n"


def problems() -> list[Problem]:
    """Of two sets, so that neither all nor none is solved."""
    return [*PROBLEM_SETS["sorting"].problems("test", 3, 0),
            *PROBLEM_SETS["reworded_problems"].problems("test", NUM_PROBLEMS - 3, 0)]  # fmt: skip


def write_tasks(folder: Path) -> Path:
    """``tiny_generate``, ``tiny_choose`` and ``tiny_text`` on the same problems."""
    folder.mkdir(exist_ok=True)
    rows = [
        {"prompt": each.prompt, "reference": each.reference, "gold": at % 2,
         "choices": [each.reference[:6], "7, 7"][:: 1 if at % 2 == 0 else -1]}
        for at, each in enumerate(problems())
    ]  # fmt: skip
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    generate = {
        "output_type": "generate_until", "doc_to_target": "{{reference}}",
        "generation_kwargs": {"until": [UNTIL], "max_gen_toks": 64, "do_sample": False},
        "metric_list": [_metric("exact_match")],
    }  # fmt: skip
    write_task(folder, "tiny_generate", generate)
    choose = {
        "output_type": "multiple_choice", "doc_to_target": "{{gold}}", "target_delimiter": "\n",
        "doc_to_choice": "{{choices}}", "metric_list": [_metric("acc")],
    }  # fmt: skip
    write_task(folder, "tiny_choose", choose)
    text = {
        "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{prompt}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    }  # fmt: skip
    write_task(folder, "tiny_text", text)
    return folder


def write_task(folder: Path, name: str, entries: dict[str, Any]) -> None:
    """One task on the folder's rows; JSON is YAML."""
    data = {"data_files": {"test": str(folder / "rows.jsonl")}, "cache_dir": str(folder / "cache")}
    task = {
        "task": name, "dataset_path": "json", "dataset_kwargs": data, "test_split": "test",
        "doc_to_text": "{{prompt}}", "metadata": {"version": 1}, **entries,
    }  # fmt: skip
    (folder / f"{name}.yaml").write_text(json.dumps(task))


def _metric(name: str) -> dict[str, Any]:
    return {"metric": name, "aggregation": "mean", "higher_is_better": True}
