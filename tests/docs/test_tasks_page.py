"""docs/tasks.md names every task and shows the measured numbers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import bench_tasks
from starr_engine.study.published import PUBLISHED, published_tasks
from starr_engine.study.published.run_code import DEFAULT_MEMORY_BYTES, DEFAULT_TIME_S
from starr_engine.study.scoring import SCORED_TASKS
from tools.result_tables import DOCS, tables_of

PAGE = (DOCS / "tasks.md").read_text()


def test_every_task_has_its_row() -> None:
    for name in SCORED_TASKS:
        assert f"| `{name}`" in PAGE


def test_defaults_are_those_of_the_code() -> None:
    for name in PUBLISHED:
        [row] = [line for line in PAGE.splitlines() if line.startswith(f"| `{name}`")]
        assert row.split(" | ")[-2] == str(published_tasks()[name].shots)
    assert f"time, {DEFAULT_TIME_S:g} s; memory, {DEFAULT_MEMORY_BYTES // 2**20} MiB" in PAGE


def test_a_small_run_gives_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = ["bench_tasks", "--models", "tiny-sdar", "--sets", "long_sorting",
            "--num-problems", "2", "--output", str(tmp_path / "tasks.json")]  # fmt: skip
    monkeypatch.setattr(sys, "argv", argv)
    bench_tasks.main()
    [shown] = tables_of("tasks.md", tmp_path).values()
    assert "| task | `tiny-sdar`, `low_confidence` | `tiny-sdar`, `threshold` |" in shown
    assert "Share of 2 problems of the split `test`" in shown
