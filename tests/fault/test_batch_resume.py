"""Real processes, really killed: every row comes out exactly once, as if nothing had happened."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from starr_engine.cli.main import main
from starr_engine.offline.job import BatchJob, run_batch_job
from starr_engine.offline.journal import journal_path
from tests.helpers.fake_llm import FakeLLM
from tests.helpers.word_models import write_word_model

ROOT = Path(__file__).parents[2]
FAKE = "tests.helpers.fake_command"
REAL = "starr_engine"
LIMIT_S = 120.0


def write_rows(path: Path, count: int) -> Path:
    rows: list[dict] = [{"id": i, "prompt": f"w{i % 90} w{i // 90}"} for i in range(count)]
    rows[count // 3] = {"id": count // 3, "prompt": ""}  # an error must not come twice either
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def arguments(source: Path, output: Path, *flags: str) -> list[str]:
    return ["batch", "--input", str(source), "--output", str(output),
            "--max-tokens", "16", "--block-length", "8", "--batch-size", "4", *flags]  # fmt: skip


class Command:
    """One ``batch`` command line that may be started again and again."""

    def __init__(self, module: str, source: Path, output: Path, *flags: str) -> None:
        self.output = output
        self._argv = [sys.executable, "-m", module, *arguments(source, output, *flags)]

    def start(self, *flags: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self._argv, *flags], cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, *flags: str) -> str:
        process = self.start(*flags)
        out, err = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 0, err
        return out

    def run_until(self, num_rows: int, number: signal.Signals, *flags: str) -> tuple[int, str]:
        """Send a signal once the journal has ``num_rows`` rows; returns exit code and stderr."""
        process = self.start(*flags)
        deadline = time.monotonic() + LIMIT_S
        while process.poll() is None and self.num_rows() < num_rows:
            assert time.monotonic() < deadline, "the journal does not grow"
            time.sleep(0.001)
        process.send_signal(number)
        _, err = process.communicate(timeout=LIMIT_S)
        return process.returncode, err

    def num_rows(self) -> int:
        journal = journal_path(self.output)
        return journal.read_bytes().count(b"\n") if journal.exists() else 0


def files_beside(path: Path) -> set[str]:
    return {each.name for each in path.parent.iterdir() if each.name.startswith(path.name)}


@pytest.mark.parametrize(
    ("number", "exit_code", "times"),
    [(signal.SIGKILL, -9, 3), (signal.SIGINT, 130, 1), (signal.SIGTERM, 143, 1)],
)
def test_a_run_killed_again_and_again_ends_as_one_that_was_not(
    tmp_path: Path, number: signal.Signals, exit_code: int, times: int
):
    count = 1000
    source = write_rows(tmp_path / "in.jsonl", count)
    whole = tmp_path / "whole.jsonl"
    run_batch_job(FakeLLM(), BatchJob(input=source, output=whole))
    command = Command(FAKE, source, tmp_path / "out.jsonl")
    rng = random.Random(int(number))
    for goal in sorted(rng.sample(range(1, count // 4), times)):
        before = command.num_rows()
        code, err = command.run_until(max(goal, before + 1), number, "--resume")
        assert code == exit_code, err
        assert goal <= command.num_rows() < count
        assert not command.output.exists()
        if number != signal.SIGKILL:
            assert f"holds {command.num_rows()} complete rows" in err.splitlines()[-1]
            assert "--resume" in err.splitlines()[-1]
            assert "Traceback" not in err
    resumed = command.num_rows()
    assert f"{resumed} from an earlier run" in command.run("--resume")
    assert command.output.read_bytes() == whole.read_bytes()
    rows = [json.loads(line) for line in command.output.read_text().splitlines()]
    assert [row["id"] for row in rows] == list(range(count))
    assert files_beside(command.output) == {"out.jsonl"}


def test_a_killed_run_is_not_continued_unless_asked(tmp_path: Path):
    source = write_rows(tmp_path / "in.jsonl", 1000)
    command = Command(FAKE, source, tmp_path / "out.jsonl")
    command.run_until(5, signal.SIGKILL)
    kept = journal_path(command.output).read_bytes()
    process = command.start()
    _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 2
    assert "pass --resume to continue it" in err
    process = command.start("--resume", "--seed", "5")
    _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 2
    assert "seed was 0 and is now 5" in err
    assert journal_path(command.output).read_bytes() == kept


def test_the_engine_itself_killed_and_resumed_gives_the_same_parquet_file(tmp_path: Path):
    model = write_word_model(tmp_path / "model")
    source = write_rows(tmp_path / "in.jsonl", 80)
    flags = ("--model", str(model), "--device", "cpu", "--remasking", "low_confidence",
             "--cache", "dual", "--temperature", "0.7")  # fmt: skip
    whole = tmp_path / "whole.parquet"
    assert main([*arguments(source, whole, *flags), "--quiet"]) == 0
    command = Command(REAL, source, tmp_path / "out.parquet", *flags)
    code, _ = command.run_until(10, signal.SIGKILL)
    assert code == -9
    code, err = command.run_until(command.num_rows() + 5, signal.SIGINT, "--resume")
    assert code == 130, err
    assert main([*arguments(source, command.output, *flags), "--resume"]) == 0
    expected = pq.read_table(whole).to_pylist()
    assert pq.read_table(command.output).to_pylist() == expected
    assert [row["id"] for row in expected] == list(range(80))
    assert [row["id"] for row in expected if row["error"]] == [80 // 3]
    assert files_beside(command.output) == {"out.parquet"}
