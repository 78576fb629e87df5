"""A recorded cell that is measured again: what counts as the same, here and elsewhere."""

from __future__ import annotations

from dataclasses import replace

import pytest

from starr_engine.cli.main import main
from starr_engine.errors import ConfigError
from starr_engine.study.grid.cell_runner import CellOptions
from starr_engine.study.grid.job import StudyJob
from starr_engine.study.grid.read import make_grid
from starr_engine.study.grid.rerun import compare, find_cells, rerun
from starr_engine.study.grid.results import RESULTS, read_results
from starr_engine.study.grid.run import run_study
from tests.helpers.fake_bench import fake_benches, write_questions
from tests.helpers.made_results import made_cell, made_result


def of_forwards(*forwards: int, cpu: str = "Some CPU", **numbers):
    made = made_result(made_cell(), forwards=forwards, solved="1" * len(forwards), **numbers)
    return replace(made, environment={**made.environment, "cpu": cpu})


def test_on_the_same_processor_nothing_may_differ():
    recorded = of_forwards(*[8] * 40)
    assert not compare(recorded, of_forwards(*[8] * 40, wall_s=9.0)).reasons
    verdict = compare(recorded, of_forwards(*[8] * 39, 9))
    assert verdict.reasons == ("problems 39 differ",)
    assert "DIFFERENT: problems 39 differ" in str(verdict)
    [reason] = compare(recorded, of_forwards(*[8] * 40, rows=101.0)).reasons
    assert reason == "rows was 100.0 and is 101.0"


def test_on_another_processor_one_problem_in_twenty_may_differ():
    recorded = of_forwards(*[8] * 40)
    assert not compare(recorded, of_forwards(*[8] * 38, 9, 9, cpu="other", rows=101.0)).reasons
    assert compare(recorded, of_forwards(*[8] * 37, 9, 9, 9, cpu="other")).reasons
    assert compare(recorded, of_forwards(*[8] * 40, cpu="other", label="approximate: x")).reasons
    # What is the same for every problem is the same for all of them together.
    assert compare(recorded, of_forwards(*[8] * 40, cpu="other", rows=101.0)).reasons


def test_prompts_that_changed_and_cells_that_fail_are_different():
    recorded = of_forwards(8, 8)
    other = of_forwards(8, 8)
    assert other.measured is not None
    asked = replace(other, measured=replace(other.measured, fingerprint="another"))
    assert compare(recorded, asked).reasons == ("the prompts are others",)
    failed = made_result(made_cell(), error="no memory")
    assert compare(recorded, failed).reasons == ("it does not run: no memory",)


def test_a_file_that_changed_is_found_and_an_id_must_be_that_of_one_cell(tmp_path):
    questions = write_questions(tmp_path / "mine.jsonl")
    grid = make_grid(
        {"models": ["fake"], "tasks": [str(questions)], "caches": ["none", "dllm"],
         "remasking": ["low_confidence"]}
    )  # fmt: skip
    results = run_study(
        StudyJob(grids=(grid,), folder=tmp_path / "out"),
        make_bench=fake_benches(),
    )
    [cell] = find_cells(results, [results[0].cell.id[:8]])
    [verdict] = rerun([cell], options=CellOptions(make_bench=fake_benches()))
    assert not verdict.reasons and verdict.is_same_place
    for name, problem in (("", "2 cells"), ("zz", "0 cells"), (results[1].cell.id, "no numbers")):
        with pytest.raises(ConfigError, match=problem):
            find_cells(results, [name])
    write_questions(questions, 4)
    with pytest.raises(ConfigError, match="has changed"):
        list(rerun([cell], options=CellOptions(make_bench=fake_benches())))


def test_the_command_says_whether_a_cell_gives_what_was_recorded(tmp_path, capsys):
    output = ["--output", str(tmp_path)]
    words = ["--task", "sorting", "--cache", "none", "--remasking", "threshold", "--limit", "2",
             "--max-tokens", "32", "--engine", "device=cpu", "--quiet"]  # fmt: skip
    assert main(["study", *words, *output]) == 0
    [result] = read_results(tmp_path)
    again = ["study", "--rerun", result.cell.id, *output]
    assert main(again) == 0
    assert "0 of 2 problems differ; with the same processor, torch and number of threads 0 may" in (
        capsys.readouterr().out
    )
    path = tmp_path / RESULTS
    before = path.read_text()
    path.write_text(before.replace('"forwards": [', '"forwards": [1'))
    assert path.read_text() != before
    assert main(again) == 1
    shown = capsys.readouterr()
    assert "DIFFERENT: problems 0 differ" in shown.out
    assert "1 of 1 cells differ from what was recorded" in shown.err
