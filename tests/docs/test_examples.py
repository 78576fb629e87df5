"""The examples run from end to end."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from starr_engine.study.tasks import TASKS

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def check_demo(lines: list[str], folder: Path) -> None:
    assert any("NFE/request" in line for line in lines)
    rows = json.loads((folder / "result.json").read_text())["rows"]
    # One token per step: every request takes one or two blocks of 32 forwards.
    assert 32 <= rows[0]["nfe_per_request"] <= 64
    assert rows[0]["tpf"] == 1.0
    assert all(row["nfe_per_request"] < rows[0]["nfe_per_request"] for row in rows[1:])


def check_own_policy(lines: list[str], folder: Path) -> None:
    _, threshold, own, verdict = lines
    assert (threshold.split()[0], own.split()[0]) == ("threshold", "left_run")
    # One or two blocks of 32, and at least one forward each.
    assert all(1 <= float(row.split()[2]) <= 64 for row in (threshold, own))
    assert verdict == "left_run keeps every rule of the conformance suite"


def check_own_cache_policy(lines: list[str], folder: Path) -> None:
    _, none, dual, own = (line.split() for line in lines[:4])
    # The fewer rows a policy computes at a step, the fewer in all.
    assert float(own[2]) < float(dual[2]) < float(none[2])
    assert [none[4], none[5]] == ["0.00%", "exact"]
    assert own[5:] == ["approximate:", "temporal", "reuse"]
    assert lines[4] == "unsettled keeps every rule of the conformance suite"


def check_many_callers(lines: list[str], folder: Path) -> None:
    canvases = [line for line in lines if set(line) == {"#", "."}]
    assert len(canvases) >= 4
    assert any("73, 60, 25, 18, 2" in line for line in lines)
    assert any('"city": "Delhi"' in line for line in lines)


def check_infilling(lines: list[str], folder: Path) -> None:
    text = "\n".join(lines)
    assert "99, 98, 64, 53, 48\n" in text
    assert "Carla, London, cook" in text
    assert """'", "city": "London', 4 tokens""" in text


def check_generate(lines: list[str], folder: Path) -> None:
    table = lines[1:4]
    assert [row.split()[0] for row in table] == ["low_confidence", "threshold", "starr"]
    assert table[0].split()[1:3] == ["64", "1.0"]
    assert all(row.endswith("Answer: 16") for row in table)
    assert "from ids:  73, 60, 25, 18, 2" in lines
    assert len([line for line in lines if line.startswith("sample:")]) == 3


def check_stream(lines: list[str], folder: Path) -> None:
    blocks = [line for line in lines if line.startswith("request 0, block")]
    assert [line[: len("request 0, block 0")] for line in blocks] == [
        f"request 0, block {index}" for index in range(3)
    ]
    assert blocks[-1].endswith("'Answer: 16'")


def check_batch(lines: list[str], folder: Path) -> None:
    rows = [
        json.loads(line) for line in (folder / "out/batch/answers.jsonl").read_text().splitlines()
    ]
    assert [row["id"] for row in rows] == ["plain", "chat", "own fields", "gap", "bad"]
    assert [row["text"] for row in rows[:3]] == ["73, 60, 25, 18, 2"] * 3
    assert rows[0]["note"] == "carried through to the output"
    assert "temperature" in rows[4]["error"]
    assert lines[-1].startswith("5 rows, 1 with an error")


def check_serve_and_call(lines: list[str], folder: Path) -> None:
    assert lines[0].startswith("73, 60, 25, 18, 2: exact, ")
    blocks = [line for line in lines if line.startswith("block: ")]
    assert len(blocks) > 1
    assert lines[-1] == "the server ended with exit code 0"


def check_evaluate(lines: list[str], folder: Path) -> None:
    shares = [float(re.findall(r"[\d.]+(?=%)", line)[0]) for line in lines[1:]]
    assert shares[0] >= 75
    # Fixed quotas guess.
    assert shares[1] < shares[0]


ARGUMENTS = {
    "demo": ["--limit", "8", "--output", ".", "--result", "result.json"],
    "own_policy": ["--limit", "6"],
    "own_cache_policy": ["--limit", "2"],
    "evaluate": ["--limit", "12"],
}
CHECKS: dict[str, Callable[[list[str], Path], None]] = {
    name.removeprefix("check_"): check
    for name, check in list(globals().items())
    if name.startswith("check_")
}


@pytest.mark.parametrize("example", [path.stem for path in EXAMPLES])
def test_every_example_runs_and_prints_what_it_promises(example: str, tmp_path: Path) -> None:
    path = ROOT / "examples" / f"{example}.py"
    run = subprocess.run(
        [sys.executable, str(path), *ARGUMENTS.get(example, [])],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout
    if example in CHECKS:
        CHECKS[example](run.stdout.splitlines(), tmp_path)


@pytest.mark.parametrize("example", [path.stem for path in EXAMPLES])
def test_every_example_says_how_to_run_it_and_is_listed(example: str) -> None:
    page = (ROOT / "examples" / "README.md").read_text()
    source = (ROOT / "examples" / f"{example}.py").read_text()
    assert f"python examples/{example}.py" in source.split('"""')[1]
    assert f"[{example}.py]({example}.py)" in page


def test_the_table_of_the_infilling_page_is_that_of_the_result_file() -> None:
    page = (ROOT / "docs" / "infilling.md").read_text()
    tasks = json.loads((ROOT / "benchmarks/results/infilling.json").read_text())["tasks"]
    settings = ("given", "given, no end", "searched", "searched by the gap alone")
    for name, measured in tasks.items():
        cells = [name, *(str(measured[setting]["exact"]) for setting in settings)]
        assert f"| {' | '.join(cells)} |" in page
    assert set(tasks) == set(TASKS)
