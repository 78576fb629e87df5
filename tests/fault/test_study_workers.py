"""A study on Ray's workers gives the file of one process, whatever happens to them."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from starr_engine.cli.main import main
from starr_engine.distributed import Workers
from starr_engine.offline.journal import journal_path
from starr_engine.study.grid.job import StudyInterruptedError, StudyJob
from starr_engine.study.grid.read import make_grid
from starr_engine.study.grid.results import RESULTS, CellResult, read_results
from starr_engine.study.grid.run import run_study
from tests.helpers.fake_bench import EndedWorkers, fake_benches, write_questions
from tests.helpers.ray_jobs import num_lines, small_ray
from tests.helpers.study_killer import killed_grid

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TWO = Workers(count=2)


@pytest.fixture(scope="module")
def _ray() -> Iterator[None]:
    with small_ray():
        yield


@pytest.fixture
def job(tmp_path: Path) -> StudyJob:
    grid = killed_grid(write_questions(tmp_path / "mine.jsonl", 4))
    return StudyJob(grids=(grid,), folder=tmp_path / "whole")


def content(results: list[CellResult]) -> list[bytes]:
    """What must be equal; threads are those of the process, which the fake does not set."""
    without = ({**each.environment, "num_threads": 0} for each in results)
    return [replace(each, environment=where).untimed_line()
            for each, where in zip(results, without, strict=True)]  # fmt: skip


@pytest.mark.usefixtures("_ray")
@pytest.mark.parametrize("seed", [0])
def test_workers_killed_at_random_and_a_stop_leave_no_trace(job, tmp_path, seed):
    print(f"seed {seed}")
    expected = content(run_study(job, make_bench=fake_benches()))
    rng = random.Random(seed)
    # Each cell of these ends its worker once, at a random step; the second run finds the mark.
    benches = fake_benches(
        before_step=EndedWorkers(tmp_path, at_steps=tuple(rng.sample(range(1, 60), 3)))
    )
    stop_at = rng.randrange(8, 20)
    again = replace(job, folder=tmp_path / "workers", resume=True)
    told: list[int] = []

    def on_cell(result: CellResult, number: int, total: int) -> None:
        told.append(number)
        if len(told) == stop_at:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(StudyInterruptedError, match=f"holds {stop_at} cells"):
        run_study(again, make_bench=benches, workers=TWO, on_cell=on_cell)
    results = run_study(again, make_bench=benches, workers=TWO, on_cell=on_cell)
    assert content(results) == expected
    assert sorted(told) == list(range(1, len(expected) + 1))  # none was measured twice
    assert len(list(tmp_path.glob("ended-*"))) >= 1, "no worker was ended"
    assert {each.measured.timing.side_by_side for each in results if each.measured} == {2}


@pytest.mark.usefixtures("_ray")
def test_a_cell_that_ends_two_workers_is_set_aside_with_the_reason(tmp_path):
    questions = write_questions(tmp_path / "mine.jsonl", 4)
    grid = make_grid(
        {"models": ["fake"], "tasks": [str(questions)], "caches": ["none"],
         "remasking": ["low_confidence", {"threshold": {"threshold": [0.25, 0.5]}}]}
    )  # fmt: skip
    results = run_study(
        StudyJob(grids=(grid,), folder=tmp_path / "out"),
        make_bench=fake_benches(fatal_threshold=0.25),
        workers=TWO,
    )
    assert [each.error is None for each in results] == [True, False, True]
    assert str(results[1].error).startswith("this cell ended the worker that ran it twice: ")


def test_the_command_killed_at_random_moments_gives_the_file_of_one_process(tmp_path):
    words = ["study", "--model", "tiny-llada", "--model", "tiny-sdar", "--task", "sorting",
             "--cache", "none", "--cache", "block_causal", "--remasking", "threshold",
             "--remasking", "starr", "--limit", "3", "--engine", "device=cpu",
             "--engine", "num_threads=1", "--quiet"]  # fmt: skip
    output = tmp_path / "workers"
    command = [sys.executable, "-m", "starr_engine", *words, "--output", str(output), "--resume",
               "--workers", "2", "--cpus-per-worker", "1"]  # fmt: skip
    seed = 0
    rng = random.Random(seed)
    print(f"seed {seed}")
    journal = journal_path(output / RESULTS)
    for number, at in ((signal.SIGKILL, 1), (signal.SIGTERM, 3)):
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
            while process.poll() is None and num_lines(journal) < at:
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.02))
            os.kill(process.pid, number)
            _, err = process.communicate(timeout=120)
        # All may have been done by then; no other end is a right one.
        assert process.returncode in (-number, 128 + number, 0), err
    # One process goes on where workers were, as they do where it was.
    assert main([*words, "--output", str(output), "--resume"]) == 0
    assert main([*words, "--output", str(tmp_path / "whole")]) == 0
    found, whole = read_results(output), read_results(tmp_path / "whole")
    assert [each.untimed_line() for each in found] == [each.untimed_line() for each in whole]
    assert sum(each.measured is not None for each in found) == 6  # tiny-llada refuses one cache
