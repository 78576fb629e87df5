"""A study that is killed at random moments, or between any two bytes, gives the same results."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starr_engine.errors import ConfigError
from starr_engine.offline.journal import journal_path, settings_path
from starr_engine.study.grid.job import StudyInterruptedError, StudyJob
from starr_engine.study.grid.results import RESULTS, parse_results
from starr_engine.study.grid.run import run_study
from starr_engine.study.report.page import write_report
from tests.helpers.fake_bench import fake_benches, write_questions
from tests.helpers.study_killer import killed_grid

ROOT = Path(__file__).parents[2]


def content(path: Path) -> list[bytes]:
    """The file in its canonical form: its lines, in their order, without what the clock says."""
    return [each.untimed_line() for each in parse_results(path)]


@pytest.mark.parametrize("seed", [0, 1])
def test_ends_at_random_moments_change_nothing(tmp_path, seed):
    questions = write_questions(tmp_path / "mine.jsonl")
    job = StudyJob(grids=(killed_grid(questions),), folder=tmp_path / "whole")
    run_study(job, make_bench=fake_benches())
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.helpers.study_killer", str(questions),
         str(tmp_path / "killed"), str(seed)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    print(f"seed {seed}: {done.stdout}{done.stderr}")
    assert done.returncode == 0
    assert done.stdout.count("=") >= 2, "too few kinds of signals came in time"
    assert content(tmp_path / "killed" / RESULTS) == content(tmp_path / "whole" / RESULTS)
    assert {each.name for each in (tmp_path / "killed").iterdir()} == {RESULTS}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[StudyJob, bytes, list[bytes]]:
    """A job, the journal it left just before it was complete, and what it gave."""
    folder = tmp_path_factory.mktemp("study")
    questions = write_questions(folder / "mine.jsonl", 4)
    job = StudyJob(grids=(killed_grid(questions),), folder=folder / "whole")
    results = run_study(job, make_bench=fake_benches())
    journal = b"".join(replace(each, compared=None).to_line() for each in results)
    return job, journal, content(job.output)


@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_a_journal_cut_off_at_any_byte_is_continued(whole, data):
    job, journal, expected = whole
    cut = data.draw(st.integers(0, len(journal)))
    with tempfile.TemporaryDirectory() as name:
        again = replace(job, folder=Path(name), resume=True)
        journal_path(again.output).write_bytes(journal[:cut])
        settings_path(again.output).write_text('{"results_format": 1}')
        told: list[int] = []
        run_study(
            again, make_bench=fake_benches(),
            on_cell=lambda result, number, total: told.append(number),
        )  # fmt: skip
        complete = journal[:cut].count(b"\n")
        assert len(told) == journal.count(b"\n") - complete  # what was finished is not repeated
        assert content(again.output) == expected


@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_the_order_in_which_cells_were_finished_leaves_no_trace(whole, data):
    job, journal, expected = whole
    lines = journal.splitlines(keepends=True)
    # In any order, some twice, some missing, and the last one torn.
    kept = data.draw(st.lists(st.sampled_from(lines), min_size=1, max_size=2 * len(lines)))
    torn = kept.pop()
    torn = torn[: data.draw(st.integers(0, len(torn) - 1))]
    with tempfile.TemporaryDirectory() as name:
        again = replace(job, folder=Path(name), resume=True)
        journal_path(again.output).write_bytes(b"".join([*kept, torn]))
        settings_path(again.output).write_text('{"results_format": 1}')
        run_study(again, make_bench=fake_benches())
        assert content(again.output) == expected
        # A smaller grid now keeps the others where they are.
        [grid] = job.grids
        run_study(
            replace(again, grids=(replace(grid, models=("two",)),)), make_bench=fake_benches()
        )
        half = len(expected) // 2
        assert content(again.output) == expected[half:] + expected[:half]


def test_a_journal_of_something_else_is_refused(whole, tmp_path):
    job, _, _ = whole
    again = replace(job, folder=tmp_path, resume=True)
    journal_path(again.output).write_bytes(b'{"text": "a row of a batch job"}\n')
    settings_path(again.output).write_text('{"results_format": 1}')
    with pytest.raises(ConfigError, match="no result of a study"):
        run_study(again, make_bench=fake_benches())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_what_is_finished_and_says_how_to_go_on(whole, tmp_path, number):
    job, _, expected = whole
    again = replace(job, folder=tmp_path)
    rng = random.Random(0)
    steps = iter(range(10**6))
    at = rng.randrange(40, 100)

    def interrupt() -> None:
        if next(steps) == at:
            signal.raise_signal(number)

    with pytest.raises(StudyInterruptedError, match="--resume") as caught:
        run_study(again, make_bench=fake_benches(before_step=interrupt))
    assert caught.value.exit_code == 128 + number
    assert journal_path(again.output).read_bytes().count(b"\n") > 0
    if number == signal.SIGINT:
        assert write_report(again.folder).stat().st_size > 0  # of what is there
    with pytest.raises(ConfigError, match="unfinished run"):
        run_study(again, make_bench=fake_benches())
    run_study(replace(again, resume=True), make_bench=fake_benches())
    assert content(again.output) == expected


def test_a_real_study_that_is_killed_is_continued(tmp_path):
    words = ["study", "--task", "sorting", "--cache", "none", "--cache", "dual", "--remasking",
             "low_confidence:tokens_per_step=8", "--remasking", "starr", "--limit", "4",
             "--engine", "device=cpu", "--engine", "num_threads=1", "--quiet"]  # fmt: skip
    output = tmp_path / "killed"
    command = [sys.executable, "-m", "starr_engine", *words, "--output", str(output), "--resume"]
    journal = journal_path(output / RESULTS)
    with subprocess.Popen(command, cwd=ROOT) as process:
        while process.poll() is None:
            if journal.exists() and journal.read_bytes().count(b"\n") >= 2:
                process.kill()
                break
            time.sleep(0.001)
    assert process.returncode == -signal.SIGKILL
    from starr_engine.cli.main import main

    assert main([*words, "--output", str(output), "--resume"]) == 0
    assert main([*words, "--output", str(tmp_path / "whole")]) == 0
    assert content(output / RESULTS) == content(tmp_path / "whole" / RESULTS)
