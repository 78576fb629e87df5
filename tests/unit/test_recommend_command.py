"""Running a recommendation: what is read, measured, shown and written, and how it goes on."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from starr_engine.cli.main import main, make_parser
from starr_engine.cli.options import engine_options, sampling_params
from starr_engine.errors import ConfigError
from starr_engine.params import SamplingParams
from starr_engine.study.grid.axes import NO_SHARING, Choice, TaskChoice
from starr_engine.study.grid.job import StudyJob
from starr_engine.study.grid.results import CellResult
from starr_engine.study.grid.run import run_study
from starr_engine.study.policy_file import load_policy_args
from starr_engine.study.recommend.candidates import (
    Candidate,
)
from starr_engine.study.recommend.commands import as_lines, commands_for
from starr_engine.study.recommend.goal import Goal
from starr_engine.study.recommend.record import record_of
from starr_engine.study.recommend.run import read_task, run_recommendation
from starr_engine.study.recommend.text import WIDTH, as_text
from tests.helpers.fake_bench import fake_benches, write_questions
from tests.helpers.made_results import made_cell
from tests.helpers.made_searches import (
    ALL,
    DEFAULT,
    LOSS,
    made_search,
    recommended,
)


def test_how_answers_are_judged_follows_from_the_rows(tmp_path):
    def judged(*rows: dict, scorer: str = "") -> str:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return read_task(f"{path}{scorer}").task.scorer

    plain, known = {"prompt": "a"}, {"prompt": "a", "reference": "b"}
    problem = {"id": "1", "task": "sorting", "prompt": "a", "reference": "b", "answer": [1]}
    assert judged(plain, plain) == "agreement"
    assert judged(known, known) == "exact"
    assert judged(known, scorer=":number") == "number"
    assert judged(problem) == "task"
    with pytest.raises(ConfigError, match=r"1 of 2 rows of .* have a reference"):
        judged(plain, known)
    assert judged(plain, known, scorer=":agreement") == "agreement"
    with pytest.raises(ConfigError, match="neither a file nor a shipped task"):
        read_task("sortng")
    assert read_task("sorting").num_rows is None


def test_agreement_is_the_share_of_outputs_that_are_the_baselines(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"prompt": "q{at}0"}}\n' for at in range(10)))
    task = read_task(str(rows)).task
    bold = Candidate(cache=Choice(name="dual"),
                     remasking=Choice(name="threshold", args={"threshold": 0.45}))  # fmt: skip
    search = made_search(
        Goal(objective="throughput", least_accuracy=0.5),
        template=made_cell(model="fake", task=task, max_tokens=16, engine=NO_SHARING, batch_size=4),
        candidates=(ALL[0], bold), num_prompts=10,
    )  # fmt: skip
    job = StudyJob(grids=(search,), folder=tmp_path / "out", with_drift=False)
    found = run_recommendation(search, job, make_bench=fake_benches())
    assert {str(each.candidate): each.measured.accuracy for each in found.judged.verdicts} == {
        "dual, starr": 1.0, "dual, threshold 0.45": 0.5,
    }  # fmt: skip
    assert all(each.measured.drift is None for each in found.judged.verdicts)
    assert found.judged.verdicts[1].loss_interval[0] > 0  # nothing can be gained on itself
    shown = as_text(found)
    assert "No references: agreement is" in shown and "accuracy %" not in shown
    # Once more, with another limit: nothing is measured again.
    told: list[int] = []
    strict = replace(search, goal=Goal(objective="throughput", least_accuracy=0.9))
    again = run_recommendation(
        strict, replace(job, resume=True, grids=(strict,)), make_bench=fake_benches(),
        on_cell=lambda result, number, total: told.append(number),
    )  # fmt: skip
    assert told == [] and again.judged.verdicts[0].measured == found.judged.verdicts[0].measured


def test_a_failed_baseline_leaves_nothing_to_agree_with(tmp_path):
    rows = write_questions(tmp_path / "rows.jsonl")
    task = TaskChoice(name="rows", file=str(rows), digest="x", scorer="agreement")
    template = made_cell(model="fake", task=task, engine=NO_SHARING)
    search = made_search(template=template, candidates=ALL[:1], num_prompts=4)

    class BaselineOfDllm:
        def cells(self):
            yield from (replace(search.cell(ALL[0], 4), cache=Choice(name=name))
                        for name in ("dllm", "dual"))  # fmt: skip

        def baseline_of(self, cell):
            return replace(cell, cache=Choice(name="dllm"))

    job = StudyJob(grids=(BaselineOfDllm(),), folder=tmp_path / "out")
    results = run_study(job, make_bench=fake_benches())
    assert "this fake refuses it" in str(results[0].error)
    assert results[1].error == "the baseline has no outputs to agree with"


def test_a_search_that_is_stopped_goes_on_to_the_same_result(tmp_path):
    questions = write_questions(tmp_path / "mine.jsonl", 30)
    task = read_task(str(questions)).task
    template = made_cell(model="fake", task=task, max_tokens=16, engine=NO_SHARING, batch_size=4)
    search = made_search(template=template, num_prompts=30)
    job = StudyJob(grids=(search,), folder=tmp_path / "whole", with_drift=False)
    whole = run_recommendation(search, job, make_bench=fake_benches())
    assert whole.num_rounds == 2

    def stop_at_nine(result: CellResult, number: int, total: int) -> None:
        if number == 9:
            raise KeyboardInterrupt

    halves = replace(job, folder=tmp_path / "halves", resume=True)
    with pytest.raises(KeyboardInterrupt):
        run_recommendation(search, halves, make_bench=fake_benches(), on_cell=stop_at_nine)
    again = run_recommendation(search, halves, make_bench=fake_benches())

    assert again.num_rounds == 2
    seen = {str(each.candidate): each.measured.outputs for each in whole.judged.verdicts}
    shared = [each for each in again.judged.verdicts if str(each.candidate) in seen]
    assert shared  # which ones go on depends on times, what they give does not
    assert all(seen[str(each.candidate)] == each.measured.outputs for each in shared)
    lines = (halves.folder / "results.jsonl").read_text().splitlines()
    assert len({json.loads(line)["id"] for line in lines}) == len(lines)


@pytest.mark.parametrize("objective", ["latency", "throughput"])
def test_the_commands_ask_for_what_was_measured(objective):
    choice = Choice(name="dual", args={"refresh_every": 4, "isolate_prompt": False})
    policy = Choice(name="starr", args={"signal": "logit", "patience": None, "alpha": 0.1})
    cell = made_cell(
        model="tiny-llada", cache=choice.name, max_tokens=48, block_length=16, batch_size=8,
        engine={**NO_SHARING, "device": "cpu", "dtype": "float32", "num_threads": 1},
        sampling={"temperature": 0.5, "ignore_eos": True, "skip_special_tokens": False,
                  "early_exit": "prophet", "suppress_eos": False},
    )  # fmt: skip
    cell = replace(cell, cache=choice, remasking=policy)
    commands = commands_for(cell, objective)
    assert list(commands) == ["generate", "batch", "serve"]
    for name, words in commands.items():
        shown = as_lines(words, 60)
        assert max(map(len, shown.splitlines())) <= 60
        assert shlex.split(shown.replace("\\\n", "")) == words
        args = make_parser(name).parse_args(words[1:])
        assert sampling_params(args) == SamplingParams(
            max_tokens=48, block_length=16, cache="dual", cache_args=choice.args,
            remasking="starr", remasking_args=policy.args, temperature=0.5, ignore_eos=True,
            skip_special_tokens=False, early_exit="prophet",
        )  # fmt: skip
        options = engine_options(args)
        assert (options["model"], options["device"], options["num_threads"]) == (
            "tiny-llada", "cpu", 1,
        )  # fmt: skip
        is_batch = objective == "throughput" and name != "generate"
        assert options["max_num_requests"] == (8 if is_batch else 16)
        assert options["canvas_cache"] > 0  # the study shares nothing; users may


def test_the_text_fits_a_terminal_and_never_shows_speed_alone():
    long = Candidate(
        cache=Choice(name="vicinity", args={"look_back": 128, "look_ahead": 128}),
        remasking=Choice(name="hierarchy", args={"threshold": 0.95, "low": 0.55}),
    )
    for goal in (LOSS, Goal(objective="latency", most_loss=0.5)):
        numbers = {DEFAULT: {"wall_s": 6.0}, str(long): {"label": "approximate: x"}}
        found = recommended(numbers, goal, candidates=(ALL[0], long))
        shown = as_text(found)
        assert max(map(len, shown.splitlines())) <= WIDTH
        head = next(line for line in shown.splitlines() if "faster" in line)
        assert "accuracy %" in head and "forwards" in head
        assert ("tokens/s" in head) == ("batch" in head) == (goal.objective == "throughput")
        for words in ("why", "gain", "how sure", "holds for", "starr-engine serve"):
            assert words in shown
        record = json.loads(json.dumps(record_of(found)))
        assert record["recommended"]["setting"] == str(found.chosen.candidate)
        assert record["finalists"][0]["batch_size"] == 4


def test_the_command_recommends_on_a_shipped_model_and_its_policy_file_is_used(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    shipped = Path(__file__).parents[2] / "starr_engine" / "assets" / "problems.jsonl"
    Path("mine.jsonl").write_text("".join(shipped.read_text().splitlines(keepends=True)[:6]))
    common = ["recommend", "--prompts", "mine.jsonl", "--objective", "latency", "--num-prompts",
              "4", "--max-tokens", "32", "--engine", "device=cpu", "--engine", "num_threads=1",
              "--candidate", "dual:refresh=never", "threshold:threshold=0.85"]  # fmt: skip
    assert main([*common, "--json", "--max-loss", "0.25"]) == 0
    shown = capsys.readouterr()
    [line] = shown.out.splitlines()
    record = json.loads(line)
    assert json.loads(Path("recommend/recommendation.json").read_text()) == record
    assert [each["setting"] for each in record["finalists"]] == [
        "dual, starr", "dual refresh=never, threshold 0.85",
    ]  # fmt: skip
    assert record["prompts"] == {"source": "mine.jsonl", "scorer": "task", "count": 4,
                                 "mean_tokens": record["prompts"]["mean_tokens"]}  # fmt: skip
    assert record["baseline"]["nfe"] > 4 * record["recommended"]["nfe"]
    chosen = record["recommended"]
    assert (
        load_policy_args("recommend/policy.json", chosen["remasking"]) == chosen["remasking_args"]
    )
    assert "[3/3] 4 prompts, dual refresh=never, threshold 0.85: " in shown.err
    # What it says to type runs, with and without the policy file.
    assert main([*shlex.split(record["commands"]["generate"])[1:], "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    named = f"{chosen['remasking']}@recommend/policy.json"
    asked = ["generate", "your prompt", "--max-tokens", "32", "--cache", chosen["cache"],
             "--remasking", named, "--device", "cpu", "--json"]  # fmt: skip
    asked += [f"--cache-arg={name}={value}" for name, value in chosen["cache_args"].items()]
    assert main(asked) == 0
    assert json.loads(capsys.readouterr().out)["token_ids"] == plain["token_ids"]
    # The same study under a limit that nothing can meet: an exit code of its own.
    assert main([*common, "--resume", "--min-accuracy", "1", "--sure"]) == 3
    shown = capsys.readouterr()
    assert "none fits  no setting has accuracy surely at least 100 %" in shown.out
    assert shown.err.startswith("starr-engine: no setting has accuracy") and "[1/" not in shown.err
    assert not Path("recommend/policy.json").exists()
