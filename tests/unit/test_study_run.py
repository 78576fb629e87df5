"""Running a study: what a cell records, failures, growing, and the commands that repeat it."""

from __future__ import annotations

import csv
import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from starr_engine.cli.code_options import code_limits
from starr_engine.cli.main import main, make_parser
from starr_engine.cli.study import command_of
from starr_engine.errors import ConfigError
from starr_engine.study.grid.job import StudyJob
from starr_engine.study.grid.read import make_grid
from starr_engine.study.grid.results import RESULTS, read_results
from starr_engine.study.grid.run import run_study
from starr_engine.study.grid.significance import mcnemar
from starr_engine.study.published import CodeLimits
from tests.helpers.fake_bench import fake_benches, write_questions


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    return write_questions(tmp_path / "mine.jsonl")


def job_of(questions: Path, folder: Path, **entries) -> StudyJob:
    content = {
        "models": ["fake"], "tasks": [str(questions)], "caches": ["none", "dual"],
        "remasking": ["low_confidence", {"threshold": {"threshold": [0.45, 0.95]}}],
    }  # fmt: skip
    return StudyJob(grids=(make_grid(content | entries),), folder=folder)


def test_a_cell_records_what_its_requests_gave(questions, tmp_path):
    results = run_study(job_of(questions, tmp_path / "out"), make_bench=fake_benches())
    by_name = {f"{each.cell.cache} {each.cell.remasking}": each for each in results}
    found = by_name["dual threshold:threshold=0.45"].measured
    assert found is not None
    # Ten difficulties, 0 to 90 in tens, of which 0 to 40 are solved; eight forwards each.
    assert (found.accuracy, found.solved, found.nfe) == (0.5, "1111100000", 8.0)
    assert (found.rows, found.tpf, found.refresh_share) == (32.0, 2.5, 0.125)
    assert found.label == "approximate: fake"
    assert found.drift is not None
    assert (found.drift["flip_rate"], found.drift["rows_compared"]) == (0.25, 8 * 4)
    assert found.memory.kv_bytes == 9 * 1000  # ten requests, seen after the first has ended
    assert found.timing.latency_p50_s == found.timing.latency_p95_s == 0.5
    compared = by_name["dual threshold:threshold=0.45"].compared
    assert compared is not None
    assert (compared.gained, compared.lost, compared.p_value) == (0, 5, mcnemar(0, 5))
    assert (compared.same_outputs, compared.fewer_forwards) == (0.5, 2.5)
    assert compared.fewer_forwards_interval == (2.5, 2.5)
    baseline = by_name["none low_confidence"]
    assert baseline.measured is not None and baseline.measured.drift is None  # it is exact
    assert baseline.environment["versions"]["starr-engine"]
    assert read_results(tmp_path / "out") == results


def test_a_cell_that_cannot_run_keeps_its_reason_and_the_others_finish(questions, tmp_path):
    job = job_of(
        questions, tmp_path / "out", models=["missing", "fake"], caches=["none", "dllm"]
    )  # fmt: skip
    opened: list[str] = []
    results = run_study(job, make_bench=fake_benches(opened=opened))
    reasons = [each.error for each in results]
    assert reasons[:6] == ["no such model"] * 6  # tried once
    assert opened == ["missing", "fake"]
    assert [reason is None for reason in reasons[6:]] == [True] * 3 + [False] * 3
    assert "this fake refuses it" in str(reasons[-1])
    assert all(each.compared is None for each in results if each.error)


def test_an_engine_that_breaks_is_replaced(questions, tmp_path):
    steps = iter(range(1000))

    def break_once() -> None:
        if next(steps) == 25:
            raise RuntimeError("device lost")

    opened: list[str] = []
    results = run_study(
        job_of(questions, tmp_path / "out"),
        make_bench=fake_benches(before_step=break_once, opened=opened),
    )
    assert [each.error for each in results if each.error] == ["RuntimeError: device lost"]
    assert opened == ["fake", "fake"]


def test_a_finished_study_grows_and_keeps_what_it_has(questions, tmp_path):
    small = job_of(questions, tmp_path / "out", caches=["none"])
    before = run_study(small, make_bench=fake_benches())
    with pytest.raises(ConfigError, match="pass --resume to add"):
        run_study(small, make_bench=fake_benches())
    told: list[int] = []
    larger = replace(job_of(questions, tmp_path / "out"), resume=True)
    after = run_study(
        larger, make_bench=fake_benches(), on_cell=lambda result, number, total: told.append(number)
    )
    assert told == [4, 5, 6]
    assert after[:3] == before
    # A smaller grid drops nothing, and compares with its own baseline.
    other = job_of(questions, tmp_path / "out", caches=["dual"])
    last = run_study(replace(other, resume=True), make_bench=fake_benches())
    assert len(last) == 6
    assert {each.baseline for each in last[:3]} == {last[0].cell.id}


def test_failed_cells_run_again_only_when_asked(questions, tmp_path):
    steps = iter(range(1000))

    def break_once() -> None:
        if next(steps) == 25:
            raise RuntimeError("device lost")

    job = job_of(questions, tmp_path / "out")
    run_study(job, make_bench=fake_benches(before_step=break_once))
    kept = run_study(replace(job, resume=True), make_bench=fake_benches())
    assert sum(each.error is not None for each in kept) == 1
    mended = run_study(replace(job, resume=True, retry_failed=True), make_bench=fake_benches())
    assert all(each.error is None for each in mended)


def test_answers_that_are_programs_are_run_only_with_leave(tmp_path):
    # The fake answers with the prompt itself.
    right, wrong = "def inc(x):\n    return x + 1", "def inc(x):\n    return x"
    answer = {"start": "def inc(x):\n", "function": "inc",
              "test": "def check(inc):\n    assert inc(1) == 2"}  # fmt: skip
    rows = [{"id": str(at), "task": "humaneval", "prompt": text, "answer": answer}
            for at, text in enumerate((right, wrong))]  # fmt: skip
    source = tmp_path / "programs.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {"file": str(source), "scorer": "task"}
    entries = {"tasks": [task], "caches": ["none"], "remasking": ["low_confidence"]}
    job = job_of(source, tmp_path / "out", **entries)
    [refused] = run_study(job, make_bench=fake_benches())
    assert refused.measured is None and "give --run-code" in str(refused.error)
    again = replace(job, resume=True, retry_failed=True, code=CodeLimits())
    [found] = run_study(again, make_bench=fake_benches())
    if found.measured is None:
        pytest.skip(str(found.error))  # a kernel without fences
    assert found.measured.solved == "10"
    with pytest.raises(ConfigError, match="unknown entry of a grid 'run_code'"):
        make_grid({"run_code": True})


def test_the_leave_to_run_programs_is_part_of_the_command():
    words = ["study", "--output", "x", "--run-code", "--code-time", "2", "--code-memory", "64"]
    args = make_parser("study").parse_args(words)
    assert code_limits(args) == CodeLimits(time_s=2.0, memory_bytes=64 * 2**20)
    assert command_of(args).endswith("--run-code --code-time 2 --code-memory 64")
    assert code_limits(make_parser("study").parse_args(words[:3])) is None


@pytest.mark.parametrize("line", [b"{}\n", b"no json\n", b'{"id": "x"}\n', b"[]\n"])
def test_a_broken_line_of_a_finished_study_is_refused_with_the_files_name(
    questions, tmp_path, line
):
    run_study(job_of(questions, tmp_path / "out"), make_bench=fake_benches())
    path = tmp_path / "out" / RESULTS
    path.write_bytes(path.read_bytes() + line)
    with pytest.raises(ConfigError, match=r"results\.jsonl holds what is no result"):
        read_results(tmp_path / "out")


def test_a_setting_changed_by_hand_is_found(questions, tmp_path):
    run_study(job_of(questions, tmp_path / "out"), make_bench=fake_benches())
    path = tmp_path / "out" / RESULTS
    path.write_text(path.read_text().replace('"batch_size": 16', '"batch_size": 8'))
    with pytest.raises(ConfigError, match="is not that of its setting"):
        read_results(tmp_path / "out")


def test_the_command_writes_a_report_and_a_cell_runs_again_to_the_same_numbers(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    words = ["study", "--task", "sorting", "--cache", "none", "--cache", "dual:refresh=never",
             "--remasking", "threshold", "--remasking", "starr", "--limit", "3",
             "--engine", "device=cpu", "--engine", "num_threads=1", "--sampling",
             "ignore_eos=true", "--max-tokens", "32", "--output", "out"]  # fmt: skip
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "[4/4] tiny-llada  sorting  dual:refresh=never  starr: accuracy" in shown
    assert "NFE" in shown and "batch 16" in shown
    names = {each.name for each in Path("out").iterdir()}
    assert names == {"results.jsonl", "report.html", "report.md", "report.csv", "cells.csv",
                     "commands.txt"}  # fmt: skip
    asked = shlex.split(Path("out/commands.txt").read_text())
    assert asked == ["starr-engine", *words] or set(asked) == {"starr-engine", *words}
    rows = list(csv.DictReader(Path("out/cells.csv").read_text().splitlines()))
    assert main([*shlex.split(rows[-1]["command"])[1:], "--quiet"]) == 0
    [again] = read_results(Path("out/again"))
    assert again.measured is not None
    assert again.cell.id == rows[-1]["id"]
    assert [again.measured.accuracy, again.measured.nfe] == [
        float(rows[-1]["accuracy"]), float(rows[-1]["nfe"])
    ]  # fmt: skip
    first = json.loads(Path("out/results.jsonl").read_text().splitlines()[-1])
    assert tuple(first["measured"]["outputs"]) == again.measured.outputs
