"""The examples run from end to end on a few problems."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

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


def test_the_policy_in_the_documents_is_that_of_the_example() -> None:
    document = (ROOT / "docs" / "policies.md").read_text()
    [shown] = re.findall(r"```python\n(@dataclass.*?)```", document, re.DOTALL)
    example = (ROOT / "examples" / "own_policy.py").read_text()
    lines = [line for line in shown.splitlines() if line]
    assert len(lines) > 5
    assert all(line in example for line in lines)
