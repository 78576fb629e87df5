"""Calibration from end to end on a made-up engine: results, interruption, resumption, refusals."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest

from starr_engine.cli.main import main
from starr_engine.decoding.policies.starr import StarrPolicy
from starr_engine.errors import ConfigError, RequestError
from starr_engine.offline.journal import journal_path
from starr_engine.params import SamplingParams
from starr_engine.study.calibrate import run_calibration
from starr_engine.study.calibration.job import (
    CalibrationInterruptedError,
    CalibrationJob,
    GoalNotReachedError,
)
from starr_engine.study.calibration.outcomes import Goal
from starr_engine.study.calibration.prompts import split_prompts
from starr_engine.study.calibration.report import as_file, as_text
from starr_engine.study.calibration.search import SearchPlan
from starr_engine.study.policy_file import load_policy_args
from tests.helpers.fake_study import FULL_NFE, FakeStudyLLM

NUM_PROMPTS = 40
PLAN = SearchPlan(num_settings=12, num_rounds=1, first_prompts=4)


class Killed(BaseException):
    """As sudden as a kill: nobody catches it."""


def write_prompts(path: Path) -> Path:
    """Difficulties 0.40, 0.41 ... 0.79: a threshold of 0.79 or more breaks nothing."""
    rows = [{"prompt_token_ids": [40 + at, at + 1]} for at in range(NUM_PROMPTS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def job(tmp_path: Path) -> CalibrationJob:
    return CalibrationJob(
        prompts=str(write_prompts(tmp_path / "prompts.jsonl")),
        output=tmp_path / "found.json",
        goal=Goal(measure="prompts", least=0.9),
        params=SamplingParams(max_tokens=32, remasking="threshold"),
        plan=PLAN,
    )


def content(path: Path) -> dict:
    """The file without what differs between two runs: machine and date."""
    record = json.loads(path.read_text())
    assert record.pop("environment")["versions"]["torch"]
    return record


def at(number: int, act: Callable[[], None]) -> Callable[[int], None]:
    """What the engine calls after every output: acts at one of them."""

    def hook(run: int) -> None:
        if run == number:
            act()

    return hook


def kill() -> None:
    raise Killed


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_the_cheapest_threshold_that_still_agrees_is_found(job: CalibrationJob):
    report = run_calibration(FakeStudyLLM(), job)
    # 0.9 of 20 search prompts agree from about 0.77 on; cheaper thresholds disagree.
    assert 0.70 <= report.args["threshold"] <= 0.80
    assert report.chosen.search.agreement >= 0.9
    assert report.forwards_saved == FULL_NFE / report.chosen.held_out.nfe > 2
    names = [row.name for row in report.rows]
    assert names[:2] == ["one token per step", "defaults"]
    assert set(names[2:]) == {"front"}
    front = report.rows[2:]
    assert [row.search.nfe for row in front] == sorted(row.search.nfe for row in front)
    assert report.rows[1].args == {"threshold": 0.9, "first_alone": False}
    assert report.rows[1].held_out.agreement == 1.0


def test_the_report_counts_every_prompt_in_one_part_only(job: CalibrationJob):
    report = run_calibration(FakeStudyLLM(), job)
    for row in report.rows:
        assert row.search.num_prompts + row.held_out.num_prompts == NUM_PROMPTS
    search, held_out = split_prompts(NUM_PROMPTS, 0.5, 0)
    assert sorted(search + held_out) == list(range(NUM_PROMPTS))


def test_the_file_is_what_the_flag_loads_and_says_how_it_was_found(job: CalibrationJob):
    report = run_calibration(FakeStudyLLM(), job)
    assert load_policy_args(job.output, "threshold") == report.args
    record = json.loads(job.output.read_text())
    assert record["goal"] == {"measure": "prompts", "least": 0.9}
    assert (record["prompts"]["num_search"], record["prompts"]["num_held_out"]) == (20, 20)
    assert record["decoding"]["cache"] == "auto"
    assert record["engine"]["model"] == "fake"
    assert record["search"]["space"]["threshold"]["low"] == 0.4
    assert sum(row["is_chosen"] for row in record["rows"]) == 1
    assert not journal_path(job.output).exists()


def test_settings_share_one_batch_and_nothing_runs_twice(job: CalibrationJob):
    llm = FakeStudyLLM(batch_size=4)
    run_calibration(llm, job)
    assert llm.engine.most_waiting == 8  # twice the batch: never a gap between settings
    lines = llm.engine.num_run
    again = FakeStudyLLM(batch_size=4)
    run_calibration(again, replace(job, output=job.output.with_name("again.json")))
    assert again.engine.num_run == lines
    assert content(job.output) == content(job.output.with_name("again.json"))


def test_the_batch_size_changes_nothing(job: CalibrationJob):
    run_calibration(FakeStudyLLM(batch_size=1), job)
    other = replace(job, output=job.output.with_name("other.json"))
    run_calibration(FakeStudyLLM(batch_size=16), other)
    assert content(job.output) == content(other.output)


@pytest.mark.parametrize("number", [0, 3, 41, 60, 150])
def test_a_killed_search_resumed_writes_the_same_file_and_repeats_nothing(
    job: CalibrationJob, number: int
):
    whole = FakeStudyLLM()
    run_calibration(whole, replace(job, output=job.output.with_name("whole.json")))
    assert whole.engine.num_run > 150
    with pytest.raises(Killed):
        run_calibration(FakeStudyLLM(after_output=at(number, kill)), job)
    assert not job.output.exists()
    assert journal_path(job.output).read_bytes().count(b"\n") == number
    rest = FakeStudyLLM()
    run_calibration(rest, replace(job, resume=True))
    assert number + rest.engine.num_run == whole.engine.num_run
    assert content(job.output) == content(job.output.with_name("whole.json"))


def test_a_torn_last_line_costs_one_evaluation(job: CalibrationJob):
    with pytest.raises(Killed):
        run_calibration(FakeStudyLLM(after_output=at(50, kill)), job)
    journal = journal_path(job.output)
    journal.write_bytes(journal.read_bytes()[:-3])
    run_calibration(FakeStudyLLM(), replace(job, resume=True))
    other = replace(job, output=job.output.with_name("whole.json"))
    run_calibration(FakeStudyLLM(), other)
    assert content(job.output) == content(other.output)


def test_ctrl_c_keeps_what_was_finished_and_says_how_to_continue(job: CalibrationJob):
    llm = FakeStudyLLM(after_output=at(45, interrupt))
    with pytest.raises(CalibrationInterruptedError) as caught:
        run_calibration(llm, job)
    assert caught.value.exit_code == 130
    assert "holds 46 evaluations: run the same command with --resume" in str(caught.value)
    assert len(llm.engine.aborted) > 0  # the engine is free for others
    assert not job.output.exists()
    run_calibration(FakeStudyLLM(), replace(job, resume=True))
    assert job.output.exists()


def test_another_goal_and_another_seed_use_what_was_run(job: CalibrationJob):
    with pytest.raises(Killed):
        run_calibration(FakeStudyLLM(after_output=at(100, kill)), job)
    llm = FakeStudyLLM()
    plan = replace(job.plan, seed=1)
    goal = Goal(measure="tokens", least=0.95)
    run_calibration(llm, replace(job, resume=True, plan=plan, goal=goal))
    fresh = FakeStudyLLM()
    other = replace(job, output=job.output.with_name("other.json"), plan=plan, goal=goal)
    run_calibration(fresh, other)
    # The references, at least, are not run again; the result is as if nothing had been there.
    assert llm.engine.num_run <= fresh.engine.num_run - NUM_PROMPTS
    assert content(job.output) == content(other.output)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda job: replace(job, params=replace(job.params, cache="none")), "cache was"),
        (lambda job: replace(job, params=replace(job.params, remasking="starr")), "policy was"),
        (lambda job: replace(job, max_prompts=20), "prompts was"),
    ],
)
def test_a_journal_of_something_else_is_refused(job: CalibrationJob, change, message):
    with pytest.raises(Killed):
        run_calibration(FakeStudyLLM(after_output=at(5, kill)), job)
    kept = journal_path(job.output).read_bytes()
    with pytest.raises(ConfigError, match=message):
        run_calibration(FakeStudyLLM(), change(replace(job, resume=True)))
    with pytest.raises(ConfigError, match="model was"):
        run_calibration(FakeStudyLLM(model="another"), replace(job, resume=True))
    with pytest.raises(ConfigError, match="pass --resume to continue it"):
        run_calibration(FakeStudyLLM(), job)
    assert journal_path(job.output).read_bytes() == kept


def test_a_goal_out_of_reach_names_the_nearest_setting_and_keeps_the_evaluations(
    job: CalibrationJob,
):
    hard = job.output.with_name("hard.jsonl")
    rows = [{"prompt_token_ids": [99, at + 1]} for at in range(NUM_PROMPTS)]
    hard.write_text("".join(json.dumps(row) + "\n" for row in rows))
    missed = replace(job, prompts=str(hard), space=("threshold=0.4:0.5",))
    with pytest.raises(GoalNotReachedError, match=r"the nearest reaches 0\.000 at NFE"):
        run_calibration(FakeStudyLLM(), missed)
    assert journal_path(missed.output).exists()
    assert not missed.output.exists()
    reached = replace(missed, resume=True, goal=Goal(measure="prompts", least=0.0))
    run_calibration(FakeStudyLLM(), reached)
    assert missed.output.exists()


def test_an_existing_file_is_kept_unless_told_otherwise(job: CalibrationJob):
    job.output.write_text("mine")
    with pytest.raises(ConfigError, match="pass --overwrite"):
        run_calibration(FakeStudyLLM(), job)
    assert job.output.read_text() == "mine"
    run_calibration(FakeStudyLLM(), replace(job, overwrite=True))
    assert load_policy_args(job.output)


def test_a_fixed_argument_keeps_its_value_in_every_row(job: CalibrationJob):
    params = SamplingParams(
        max_tokens=32, remasking="starr", remasking_args={"gamma": 0.5, "tau_min": 0.5}
    )
    report = run_calibration(FakeStudyLLM(), replace(job, params=params))
    for row in report.rows[1:]:
        assert (row.args["gamma"], row.args["tau_min"]) == (0.5, 0.5)
    assert (report.args["gamma"], report.args["tau_min"]) == (0.5, 0.5)
    # What was neither searched nor fixed is written out too: a later default changes no file.
    assert report.args["relax"] == 0.05
    assert report.args.keys() == {each.name for each in fields(StarrPolicy)}


def test_a_row_that_cannot_run_ends_the_calibration_with_its_number(job: CalibrationJob):
    path = Path(job.prompts)
    path.write_text(path.read_text() + '{"prompt_token_ids": "x"}\n')
    with pytest.raises(ConfigError, match=r"row 40 of .*prompt_token_ids must be a list"):
        run_calibration(FakeStudyLLM(), job)
    path.write_text(path.read_text().splitlines(keepends=True)[0] * 5 + '{"prompt_token_ids":[]}\n')
    with pytest.raises(RequestError, match=r"low_confidence\(\) on a prompt of 0 tokens"):
        run_calibration(FakeStudyLLM(), job)


def test_too_few_prompts_and_wrong_shares_are_refused(job: CalibrationJob):
    with pytest.raises(ConfigError, match="at least 4 prompts, got 3"):
        run_calibration(FakeStudyLLM(), replace(job, max_prompts=3))
    with pytest.raises(ConfigError, match="held-out share"):
        run_calibration(FakeStudyLLM(), replace(job, held_out=1.0))
    with pytest.raises(ConfigError, match="required level must lie in"):
        run_calibration(FakeStudyLLM(), replace(job, goal=Goal(measure="prompts", least=98)))


def test_a_goal_of_accuracy_takes_problems(job: CalibrationJob):
    goal = Goal(measure="accuracy", least=0.9)
    with pytest.raises(ConfigError, match="it has no id, task, answer"):
        run_calibration(FakeStudyLLM(), replace(job, goal=goal))


def test_problems_whose_answers_are_programs_are_refused_before_any_runs(job: CalibrationJob):
    row = {
        "id": "1",
        "task": "mbpp",
        "prompt_token_ids": [1, 2],
        "answer": {"setup": "", "tests": "1"},
    }
    prompts = job.output.with_name("programs.jsonl")
    prompts.write_text(4 * (json.dumps(row) + "\n"))
    goal = Goal(measure="accuracy", least=0.9)
    with pytest.raises(ConfigError, match="whose answers are programs, and calibration runs none"):
        run_calibration(FakeStudyLLM(), replace(job, goal=goal, prompts=str(prompts)))


def test_agreement_of_drawn_outputs_is_refused(job: CalibrationJob):
    params = replace(job.params, temperature=0.5)
    with pytest.raises(ConfigError, match="calibrate agreement at temperature 0"):
        run_calibration(FakeStudyLLM(), replace(job, params=params))


def test_neither_a_file_nor_a_set_is_refused_with_the_sets(job: CalibrationJob):
    with pytest.raises(ConfigError, match=r"'sortnig' is neither a file nor a shipped set; .*sort"):
        run_calibration(FakeStudyLLM(), replace(job, prompts="sortnig"))
    with pytest.raises(ConfigError, match="does not exist"):
        run_calibration(FakeStudyLLM(), replace(job, prompts="none.jsonl"))


def test_the_table_shows_the_chosen_setting_and_says_if_it_does_not_hold(job: CalibrationJob):
    report = run_calibration(FakeStudyLLM(), job)
    text = as_text(report)
    starred = [line for line in text.splitlines() if line.startswith("*")]
    assert len(starred) == 2  # its row, and its arguments
    assert f"threshold={report.args['threshold']}" in starred[1]
    falling = replace(report, goal=Goal(measure="prompts", least=1.0))
    if report.chosen.held_out.agreement < 1.0:
        assert "below the required 1" in as_text(falling)
    assert as_file(falling)["holds_on_held_out_prompts"] is falling.holds


def test_the_command_checks_its_flags_before_it_loads_a_model(tmp_path, capsys):
    base = ["calibrate", "--prompts", "sorting", "--output", str(tmp_path / "o.json")]
    for flags, message in (
        (["--policy", "starr@x.json", "--min-agreement", "1"], "--policy takes a name"),
        (["--policy", "stair", "--min-agreement", "1"], "did you mean 'starr'"),
        (["--min-agreement", "1.5"], "must lie in [0, 1], got 1.5"),
        (["--min-accuracy", "0.9", "--agreement", "tokens"], "leave it out here"),
        (["--min-agreement", "1", "--space", "tau=0:1"], "no such argument"),
        (["--min-agreement", "1", "--settings", "0"], "num_settings must be at least 1"),
    ):
        assert main([*base, *flags, "--model", "no/such/model"]) == 2
        assert message in capsys.readouterr().err
