"""The command of a distributed job, killed: what is finished stays, and no process does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from starr_engine.offline.job import BatchJob, run_batch_job
from starr_engine.offline.journal import journal_path
from tests.helpers.fake_llm import FakeLLM
from tests.helpers.ray_jobs import (
    LIMIT_S,
    MARK,
    marked_processes,
    num_lines,
    prompts,
    wait_for,
    write_rows,
)

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
COUNT = 400


class Command:
    """``batch --workers 2``, as the leader of a process group as in a terminal."""

    def __init__(self, folder: Path) -> None:
        self.source = write_rows(folder / "in.jsonl", prompts(COUNT))
        self.output = folder / "out.jsonl"
        self.mark = uuid.uuid4().hex

    def start(self) -> subprocess.Popen[str]:
        argv = ["batch", "--input", str(self.source), "--output", str(self.output), "--resume",
                "--workers", "2", "--cpus-per-worker", "1", "--device", "cpu",
                "--batch-size", "4"]  # fmt: skip
        return subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.fake_ray_command", *argv],
            cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, MARK: self.mark}, start_new_session=True,
        )  # fmt: skip

    def stop_at(self, num_rows: int, number: signal.Signals, *, group: bool) -> tuple[int, str]:
        """Send a signal once the journal has so many rows; returns exit code and stderr."""
        process = self.start()
        wait_for(
            lambda: num_lines(journal_path(self.output)) >= num_rows or process.poll() is not None,
            f"{num_rows} rows",
        )
        (os.killpg if group else os.kill)(process.pid, number)
        _, err = process.communicate(timeout=LIMIT_S)
        return process.returncode, err

    def no_engine_is_left(self) -> None:
        """Ray's own agents, which hold nothing, may stay a minute to report to a Ray that is gone;
        benchmarks/bench_ray.py waits for them too."""
        wait_for(
            lambda: all("Agent" in line for line in marked_processes(self.mark)),
            "the processes to end",
        )


def test_a_driver_killed_by_any_signal_leaves_no_process_and_resumes(tmp_path: Path):
    command = Command(tmp_path)
    whole = tmp_path / "whole.jsonl"
    run_batch_job(FakeLLM(), BatchJob(input=command.source, output=whole))

    code, err = command.stop_at(40, signal.SIGKILL, group=False)
    assert code == -signal.SIGKILL, err
    command.no_engine_is_left()
    kept = num_lines(journal_path(command.output))
    assert 40 <= kept < COUNT

    # Ctrl-C reaches every process of the group; only the driver may act on it.
    code, err = command.stop_at(kept + 40, signal.SIGINT, group=True)
    assert code == 130, err
    assert "--resume" in err.splitlines()[-1] and "Traceback" not in err
    command.no_engine_is_left()
    kept = num_lines(journal_path(command.output))

    process = command.start()
    out, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, err
    assert f"{kept} from an earlier run" in out
    assert command.output.read_bytes() == whole.read_bytes()
    command.no_engine_is_left()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "in.jsonl", "out.jsonl", "whole.jsonl",
    ]  # fmt: skip
