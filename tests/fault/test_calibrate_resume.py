"""A real calibration of the shipped model, really interrupted and killed: the file is the same."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from starr_engine import LLM, SamplingParams
from starr_engine.cli.main import main
from starr_engine.offline.journal import journal_path
from starr_engine.study.policy_file import load_policy_args

ROOT = Path(__file__).parents[2]
LIMIT_S = 900.0


def words(output: Path) -> list[str]:
    return ["calibrate", "--prompts", "sorting,json_extraction", "--policy", "starr",
            "--min-agreement", "0.5", "--agreement", "tokens", "--max-prompts", "6",
            "--settings", "4", "--rounds", "1", "--device", "cpu", "--num-threads", "1",
            "--batch-size", "4", "--output", str(output)]  # fmt: skip


def stopped_at(output: Path, num_lines: int, number: signal.Signals) -> tuple[int, str]:
    """Run until the journal has so many lines, then send the signal."""
    process = subprocess.Popen(
        [sys.executable, "-m", "starr_engine", *words(output), "--resume"],
        cwd=ROOT, text=True, stderr=subprocess.PIPE,
    )  # fmt: skip
    journal = journal_path(output)
    deadline = time.monotonic() + LIMIT_S
    while process.poll() is None:
        if journal.exists() and journal.read_bytes().count(b"\n") >= num_lines:
            process.send_signal(number)
            break
        assert time.monotonic() < deadline, "the journal does not grow"
        time.sleep(0.001)
    _, err = process.communicate(timeout=LIMIT_S)
    return process.returncode, err


def content(path: Path) -> dict:
    record = json.loads(path.read_text())
    del record["environment"]
    return record


def test_a_calibration_of_the_shipped_model_survives_ctrl_c_and_a_kill(tmp_path, capsys):
    whole, output = tmp_path / "whole.json", tmp_path / "found.json"
    assert main(words(whole)) == 0
    shown = capsys.readouterr()
    assert f"--remasking starr@{whole}" in shown.out
    code, err = stopped_at(output, 2, signal.SIGINT)
    assert code == 130
    assert "--resume" in err.splitlines()[-1]
    code, _ = stopped_at(output, 8, signal.SIGKILL)
    assert code == -9
    assert not output.exists()
    assert main([*words(output), "--resume", "--quiet"]) == 0
    assert content(output) == content(whole)
    assert {each.name for each in tmp_path.iterdir()} == {"whole.json", "found.json"}

    args = load_policy_args(output, "starr")
    rows = content(output)["rows"]
    assert rows[0]["search"]["nfe"] >= 32.0  # one token per step
    assert next(row for row in rows if row["is_chosen"])["search"]["nfe"] < rows[0]["search"]["nfe"]
    params = SamplingParams(remasking="starr", remasking_args=args)
    assert LLM("tiny-llada", device="cpu").generate(["Sort: 5 3 9"], params)[0].error is None
