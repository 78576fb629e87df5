"""`problems` and `score`: from a task or a published file to rows, and from answers to a count."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from starr_engine.cli.main import main
from starr_engine.errors import ConfigError
from starr_engine.study.grid.questions import _scorer
from starr_engine.study.published import CodeLimits
from starr_engine.study.scoring import SCORED_TASKS, problem_of, score_rows, scorer_of
from starr_engine.study.tasks import ALL_TASKS, make_problems

GSM8K = {"question": "What is 2 + 3?", "answer": "It is 5.\n#### 5"}
MBPP = {"task_id": 11, "text": "Add one.", "code": "def inc(x):\n    return x + 1",
        "test_list": ["assert inc(1) == 2"], "test_setup_code": ""}  # fmt: skip


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def answer(path: Path, output: Path, change: str = "") -> Path:
    """What a batch job writes if the model answers with the references, or with ``change``."""
    rows = [row | {"text": change or row["reference"], "error": None} for row in read(path)]
    output.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return output


def run(*argv: object) -> int:
    return main([str(each) for each in argv])


def test_built_in_problems_are_written_answered_and_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    assert run("problems", "long_chains", "--num-problems", 7, "--seed", 3, "--output", rows) == 0
    assert "7 problems of long_chains" in capsys.readouterr().out
    expected = make_problems(ALL_TASKS["long_chains"], "test", 7, 3)
    assert read(rows) == [json.loads(json.dumps(each.to_row())) for each in expected]
    answers = answer(rows, tmp_path / "answers.jsonl")
    scored = tmp_path / "scored.jsonl"
    assert run("score", "--input", answers, "--output", scored) == 0
    out = capsys.readouterr().out
    assert re.search(r"long_chains +7 of +7 +100\.0%  \(95 % interval \d\d\.\d% to 100\.0%\)", out)
    assert [row["is_right"] for row in read(scored)] == [True] * 7
    wrong = answer(rows, tmp_path / "wrong.jsonl", change="no idea")
    assert run("score", "--input", wrong) == 0
    assert "0 of     7    0.0%" in capsys.readouterr().out


def test_published_problems_are_written_for_base_and_for_chat_models(tmp_path: Path) -> None:
    source, rows = tmp_path / "test.jsonl", tmp_path / "rows.jsonl"
    source.write_text(json.dumps(GSM8K) + "\n")
    common = ("problems", "gsm8k", "--input", source, "--output", rows)
    assert run(*common, "--shots", 1, "--examples", source) == 0
    [row] = read(rows)
    assert row["prompt"].count("Question:") == 2
    assert (row["task"], row["answer"]) == ("gsm8k", "5")
    assert run(*common, "--shots", 0, "--style", "chat") == 0
    [row] = read(rows)
    assert "prompt" not in row
    [message] = row["messages"]
    assert message["role"] == "user" and "step by step" in message["content"]
    assert score_rows([row | {"text": "= 5"}], "x") == [True]


def test_programs_run_only_with_the_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, rows = tmp_path / "mbpp.jsonl", tmp_path / "rows.jsonl"
    source.write_text(json.dumps(MBPP) + "\n")
    assert run("problems", "mbpp", "--input", source, "--shots", 0, "--output", rows) == 0
    answers = answer(rows, tmp_path / "answers.jsonl")
    assert run("score", "--input", answers) == 2
    assert "give --run-code" in capsys.readouterr().err
    assert run("score", "--input", answers, "--code-network") == 2
    assert "means nothing without --run-code" in capsys.readouterr().err
    assert run("score", "--input", answers, "--run-code", "--code-time", 0) == 2
    assert "time_s must be above 0" in capsys.readouterr().err
    assert run("score", "--input", answers, "--run-code", "--code-network") == 0
    assert "1 of     1  100.0%" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("gsm8k",), "is read from its published file: give --input FILE"),
        (("gsm8k", "--seed", "1"), "--seed means nothing for the published task gsm8k"),
        (("sorting", "--shots", "1"), "--shots means nothing for the built-in task sorting"),
        (("sorting", "--num-problems", "0"), "--num-problems must be at least 1"),
        (("sorting", "--output", "rows.csv"), "the suffix must be .jsonl"),
    ],
)
def test_flags_that_do_not_fit_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], message: str
) -> None:
    assert run("problems", "--output", tmp_path / "rows.jsonl", *argv) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_failed_row_is_wrong_and_tasks_may_be_mixed() -> None:
    problems = [make_problems(ALL_TASKS[name], "test", 1, 0)[0] for name in ("code", "sorting")]
    rows = [problem.to_row() | {"text": problem.reference, "error": None} for problem in problems]
    failed = rows[1] | {"text": None, "error": "out of pages"}
    assert score_rows([*rows, failed, rows[0]], "x") == [True, True, False, True]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "5"}, "row 0 of x is no problem: it has no id, task, answer"),
        ({"id": "1", "task": "sortng", "answer": [1]}, "row 0 of x: unknown task 'sortng'; did "),
        ({"id": "1", "task": "sorting", "answer": [1]}, "row 0 of x has no text"),
    ],
)
def test_rows_that_cannot_be_scored_are_named(row: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        score_rows([row], "x")


def test_a_study_judges_rows_of_every_task_and_runs_programs_only_with_leave() -> None:
    row = {"id": "1", "task": "gsm8k", "answer": "5"}
    judge = _scorer(row, "task", "row 0", None)
    assert judge("so 5") and not judge("so 6")
    with pytest.raises(ConfigError, match="programs that nobody has asked to run: give --run-code"):
        _scorer(row | {"task": "humaneval"}, "task", "row 0", None)
    with pytest.raises(ConfigError, match="or use another scorer, such as exact or number"):
        _scorer({"reference": "5"}, "task", "row 0", None)


def test_every_task_has_a_scorer() -> None:
    for name in SCORED_TASKS:
        assert scorer_of(name, CodeLimits())
        assert problem_of({"id": 1, "task": name, "answer": 1}, "x").task == name
    with pytest.raises(ConfigError, match="unknown task"):
        scorer_of("none")
