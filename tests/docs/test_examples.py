"""The examples run from end to end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from starr_engine.study.tasks import TASKS

ROOT = Path(__file__).parents[2]


def test_the_demo_runs_the_three_settings_and_prints_one_table(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    words = ["examples/demo.py", "--limit", "8", "--output", str(tmp_path), "--result", str(result)]
    run = subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "NFE/request" in run.stdout
    rows = json.loads(result.read_text())["rows"]
    # One token per step: every request takes one or two blocks of 32 forwards.
    assert 32 <= rows[0]["nfe_per_request"] <= 64
    assert rows[0]["tpf"] == 1.0
    assert all(row["nfe_per_request"] < rows[0]["nfe_per_request"] for row in rows[1:])


def test_the_own_policy_is_registered_measured_and_checked() -> None:
    words = ["examples/own_policy.py", "--limit", "6"]
    run = subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=True
    )
    _, threshold, own, verdict = run.stdout.splitlines()
    assert (threshold.split()[0], own.split()[0]) == ("threshold", "left_run")
    # One or two blocks of 32, and at least one forward each.
    assert all(1 <= float(row.split()[2]) <= 64 for row in (threshold, own))
    assert verdict == "left_run keeps every rule of the conformance suite"


def test_many_callers_share_one_model_and_watch_a_canvas_fill_in() -> None:
    run = subprocess.run(
        [sys.executable, "examples/many_callers.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = run.stdout.splitlines()
    canvases = [line for line in lines if set(line) == {"#", "."}]
    assert len(canvases) >= 4
    assert any("73, 60, 25, 18, 2" in line for line in lines)
    assert any('"city": "Delhi"' in line for line in lines)


def test_the_infilling_example_fills_what_is_missing() -> None:
    run = subprocess.run(
        [sys.executable, "examples/infilling.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "99, 98, 64, 53, 48\n" in run.stdout
    assert "Carla, London, cook" in run.stdout
    assert """'", "city": "London', 4 tokens""" in run.stdout


def test_the_table_of_the_infilling_page_is_that_of_the_result_file() -> None:
    page = (ROOT / "docs" / "infilling.md").read_text()
    tasks = json.loads((ROOT / "benchmarks/results/infilling.json").read_text())["tasks"]
    settings = ("given", "given, no end", "searched", "searched by the gap alone")
    for name, measured in tasks.items():
        cells = [name, *(str(measured[setting]["exact"]) for setting in settings)]
        assert f"| {' | '.join(cells)} |" in page
    assert set(tasks) == set(TASKS)
