"""What a recommendation follows from: limits, rounds, the choice, its text and its commands."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starr_engine.cache.base import CACHE_POLICIES
from starr_engine.cli.main import main, make_parser
from starr_engine.cli.options import engine_options, sampling_params
from starr_engine.decoding.base import REMASKING_POLICIES
from starr_engine.errors import ConfigError
from starr_engine.params import SamplingParams
from starr_engine.study.grid.axes import NO_SHARING, Choice, TaskChoice
from starr_engine.study.grid.job import StudyJob
from starr_engine.study.grid.results import CellResult, compare_all
from starr_engine.study.grid.run import run_study
from starr_engine.study.grid.significance import difference_interval
from starr_engine.study.intervals import Z_95
from starr_engine.study.policy_file import load_policy_args
from starr_engine.study.recommend.candidates import (
    BASELINE,
    Candidate,
    ModelTraits,
    candidates_for,
    parse_candidates,
)
from starr_engine.study.recommend.choose import Recommendation, recommend
from starr_engine.study.recommend.commands import as_lines, commands_for
from starr_engine.study.recommend.goal import Goal, prompts_to_be_sure
from starr_engine.study.recommend.record import record_of
from starr_engine.study.recommend.rounds import BaselineFailedError, Search, rounds
from starr_engine.study.recommend.run import read_task, run_recommendation
from starr_engine.study.recommend.text import WIDTH, as_text, why_nothing_fits
from tests.helpers.fake_bench import fake_benches, write_questions
from tests.helpers.made_results import made_cell, made_result

LOSS = Goal(objective="throughput", most_loss=0.1)


def candidate(name: str) -> Candidate:
    """From ``dual, starr``."""
    cache, remasking = name.split(", ")
    return Candidate(cache=Choice(name=cache), remasking=Choice(name=remasking))


DEFAULT = "dual, starr"
OTHERS = ("dual, threshold", "dual, factor", "dual, klass", "dual, frechet")
ALL = tuple(map(candidate, (DEFAULT, *OTHERS)))


def made_search(goal: Goal = LOSS, **changes) -> Search:
    base = {"template": made_cell(), "goal": goal, "candidates": ALL, "default": ALL[0],
            "num_prompts": 8}  # fmt: skip
    return Search(**(base | changes))


def results_of(search: Search, numbers: dict[str, dict], count: int) -> list[CellResult]:
    """One round with given numbers; the baseline takes 8 s and solves all but the last prompt."""
    base = {
        "solved": "1" * (count - 1) + "0",
        "wall_s": 8.0,
        "latency_s": 8.0,
        "forwards": (40,) * count,
    }
    baseline = search.cell(BASELINE, count)
    made = [made_result(baseline, baseline, **base)]
    for each in search.candidates:
        if (own := numbers.get(str(each))) is not None:
            given = {"solved": base["solved"], "forwards": (4,) * count, "wall_s": 1.0} | own
            cell = search.cell(each, count)
            made.append(made_result(cell, baseline, **(own if "error" in own else given)))
    return compare_all(made)


def recommended(
    numbers: dict[str, dict], goal: Goal = LOSS, count: int = 8, **changes
) -> Recommendation:
    candidates = tuple(map(candidate, numbers))
    search = made_search(goal, num_prompts=count, **({"candidates": candidates} | changes))
    return recommend(search, results_of(search, numbers, count))


def names(verdicts) -> list[str]:
    return [str(each.candidate) for each in verdicts]


@pytest.mark.parametrize(
    ("gained", "lost", "count"), [(3, 7, 54), (12, 2, 54), (0, 5, 30), (1, 0, 8), (0, 0, 40)]
)
def test_the_interval_of_a_difference_is_where_its_score_test_turns(gained, lost, count):
    def statistic(difference: float) -> float:
        """With the likeliest share of losses found by trying."""
        low, high = max(0.0, -difference), (1 - difference) / 2
        shares = [low + (high - low) * (at + 0.5) / 20_000 for at in range(20_000)]

        def likelihood(share: float) -> float:
            pairs = ((gained, share + difference), (lost, share),
                     (count - gained - lost, 1 - 2 * share - difference))  # fmt: skip
            return sum(times * math.log(max(p, 1e-300)) for times, p in pairs if times)

        best = max(shares, key=likelihood)
        variance = count * (2 * best + difference * (1 - difference))
        return abs(gained - lost - count * difference) / math.sqrt(variance)

    low, high = difference_interval(gained, lost, count)
    assert statistic(low) == pytest.approx(Z_95, rel=2e-3)
    assert statistic(high) == pytest.approx(Z_95, rel=2e-3)
    assert difference_interval(lost, gained, count) == pytest.approx((-high, -low))


def test_no_lost_prompt_is_no_proof_of_no_loss():
    low, high = difference_interval(0, 0, 40)
    assert (low, high) == pytest.approx((-0.0876, 0.0876), abs=1e-4)
    with pytest.raises(ValueError, match="at least one problem"):
        difference_interval(0, 0, 0)


def test_the_fastest_setting_within_the_limit_is_chosen():
    lossy = {"wall_s": 0.1, "solved": "00111110"}
    found = recommended({DEFAULT: {"wall_s": 2.0}, OTHERS[0]: {}, OTHERS[1]: lossy})
    assert found.chosen is not None and str(found.chosen.candidate) == OTHERS[0]
    assert (found.chosen.faster, found.chosen.loss) == (8.0, 0.0)
    assert found.nearest is not None and str(found.nearest.candidate) == OTHERS[1]
    assert found.nearest.margin.value == pytest.approx(0.1 - 2 / 8)
    assert found.as_fast == ()


def test_of_settings_as_fast_the_more_accurate_is_chosen_then_the_default_then_the_exact():
    better = {"wall_s": 1.05, "solved": "11111111"}
    found = recommended({DEFAULT: {"wall_s": 1.04}, OTHERS[0]: {}, OTHERS[1]: better})
    assert found.chosen is not None and str(found.chosen.candidate) == OTHERS[1]
    assert names(found.as_fast) == [DEFAULT, OTHERS[0]]
    found = recommended({OTHERS[0]: {}, DEFAULT: {"wall_s": 1.09}})
    assert found.chosen is not None and found.chosen is found.default
    found = recommended({OTHERS[0]: {"label": "approximate: x"}, OTHERS[1]: {"wall_s": 1.09}})
    assert found.chosen is not None and str(found.chosen.candidate) == OTHERS[1]
    found = recommended({OTHERS[0]: {}, DEFAULT: {"wall_s": 1.11}})  # a gain that one run can tell
    assert found.chosen is not None and str(found.chosen.candidate) == OTHERS[0]


def test_nothing_is_recommended_that_is_slower_than_the_baseline_or_outside_the_limit():
    slow = recommended({DEFAULT: {"wall_s": 9.0}})
    assert slow.chosen is None and slow.nearest is None
    assert "and is faster than the baseline" in why_nothing_fits(slow)
    worse = {"solved": "00000000"}, {"solved": "00111110"}
    lossy = recommended({DEFAULT: worse[0], OTHERS[0]: worse[1]})
    assert lossy.chosen is None
    assert why_nothing_fits(lossy).endswith("below the baseline's; nearest is dual, threshold")
    failed = recommended({DEFAULT: {"error": "no memory"}})
    assert why_nothing_fits(failed).endswith("none could run")
    assert "not run: dual, starr: no memory" in as_text(failed)
    unreached = recommended({DEFAULT: {}}, Goal(objective="latency", least_accuracy=0.95))
    assert unreached.chosen is None
    assert "The baseline itself has 87.5 %" in " ".join(as_text(unreached).split())


def test_certainty_asks_for_the_whole_interval():
    sure = replace(LOSS, needs_certainty=True)
    few = recommended({DEFAULT: {}}, sure, count=8)
    assert few.chosen is None and few.nearest is not None
    assert few.nearest.margin.standing == "within"
    assert "measure more prompts" in " ".join(as_text(few).split())
    needed = prompts_to_be_sure(few.nearest, sure, few.judged.z)
    # No loss among n: the interval ends at z^2 / (n + z^2).
    square = few.judged.z**2
    assert needed == math.ceil(square / 0.1 - square)
    many = recommended({DEFAULT: {}}, sure, count=needed)
    assert many.chosen is not None and many.chosen.margin.standing == "surely within"
    assert recommended({DEFAULT: {}}, sure, count=needed - 1).chosen is None


def test_intervals_widen_with_the_number_of_settings_that_are_looked_at():
    alone = recommended({DEFAULT: {}}).judged
    among = recommended({name: {} for name in (DEFAULT, *OTHERS)}).judged
    assert (alone.z, among.z) == pytest.approx((Z_95, 2.5758), abs=1e-4)
    assert among.verdicts[0].loss_interval[1] > alone.verdicts[0].loss_interval[1]


def test_a_goal_has_one_limit_that_is_a_share():
    for limits in ({}, {"most_loss": 0.1, "least_accuracy": 0.5}, {"most_loss": 2.0}):
        with pytest.raises(ConfigError):
            Goal(objective="latency", **limits)
    assert Goal(objective="latency", most_loss=0.1).of_agreement().least_accuracy == 0.9


def test_the_promising_settings_go_on_and_the_default_with_them():
    search = made_search(num_prompts=24)
    assert [each.num_problems for each in search.cells()] == [8] * 6
    numbers = {
        DEFAULT: {"wall_s": 7.0, "solved": "00000000"},  # as bad as can be
        OTHERS[0]: {"wall_s": 1.0},
        OTHERS[1]: {"wall_s": 3.0, "solved": "11111111"},
        OTHERS[2]: {"error": "refused"},
        OTHERS[3]: {"wall_s": 4.0},
    }
    first = results_of(search, numbers, 8)
    second = rounds(search, first)[1]
    assert set(map(str, second.candidates)) == {DEFAULT, OTHERS[0], OTHERS[1], OTHERS[3]}
    assert (second.num_prompts, second.is_last) == (24, True)
    asked = search.more_cells(first)
    assert [cell.num_problems for cell, _ in asked] == [24] * 5
    assert {baseline.id for _, baseline in asked} == {search.cell(BASELINE, 24).id}
    # A part of the round asks for the same round again.
    assert search.more_cells(first[:-1]) == [
        (cell, search.baseline_of(cell)) for cell in search.cells()
    ]


def test_only_so_many_settings_go_on():
    many = tuple(candidate(f"dual, {name}") for name in REMASKING_POLICIES.names()[:12])
    search = made_search(candidates=many, default=many[-1], num_prompts=100)
    numbers = {str(each): {"wall_s": 1.0 + at} for at, each in enumerate(many)}
    kept = rounds(search, results_of(search, numbers, 8))[1].candidates
    assert kept == (*many[:4], many[-1])


def test_a_search_whose_baseline_fails_says_why():
    search = made_search()
    results = results_of(search, {str(each): {} for each in ALL}, 8)
    broken = [replace(results[0], measured=None, error="no memory"), *results[1:]]
    with pytest.raises(BaselineFailedError, match=r"none, low_confidence\) could not run: no mem"):
        rounds(search, broken)


@pytest.mark.parametrize(("budget_s", "expected"), [(13.0, 8), (53.0, 26), (113.0, 66)])
def test_a_budget_decides_on_how_many_prompts(budget_s, expected):
    # The first round takes 13 s; a prompt of a further one 1 s in the baseline, 1/8 s in others.
    search = made_search(num_prompts=200, budget_s=budget_s)
    results: list[CellResult] = []
    made = rounds(search, results)
    while True:
        numbers = {str(each): {} for each in made[-1].candidates}
        results += results_of(search, numbers, made[-1].num_prompts)
        if len(rounds(search, results)) == len(made):
            break
        made = rounds(search, results)
    assert made[-1].num_prompts == expected
    # 1.5 s a prompt: the baseline and four settings, and the default among them.
    spent = 13 + sum(1.5 * each.num_prompts for each in made[1:])
    assert spent <= budget_s


@settings(max_examples=50, deadline=None)
@given(
    limit=st.integers(1, 60), batch=st.integers(1, 20),
    times=st.lists(st.floats(0.1, 20.0), min_size=5, max_size=5),
    solved=st.lists(st.integers(0, 255), min_size=5, max_size=5),
)  # fmt: skip
def test_every_search_ends_with_all_its_prompts_and_within_its_limit(limit, batch, times, solved):
    search = made_search(num_prompts=limit, template=made_cell(batch_size=batch))
    results: list[CellResult] = []
    asked = rounds(search, results)
    while True:
        count = asked[-1].num_prompts
        numbers = {
            str(each): {"wall_s": times[at], "solved": (f"{solved[at]:08b}" * 8)[:count]}
            for at, each in enumerate(search.candidates)
            if str(each) in map(str, asked[-1].candidates)
        }
        results += results_of(search, numbers, count)
        again = rounds(search, results)
        if len(again) == len(asked):
            break
        asked = again
    assert asked[-1].num_prompts == limit and asked[-1].is_last
    found = recommend(search, results)
    assert found == recommend(search, results[::-1])
    if found.chosen is not None:
        assert found.chosen.loss <= 0.1 + 1e-9 and found.chosen.faster > 1
        assert all(each.candidate in asked[-1].candidates for each in found.judged.verdicts)
    as_text(found)


@pytest.mark.parametrize("mask_block", [None, 4, 1])
def test_the_built_in_list_is_what_the_model_takes(mask_block):
    traits = ModelTraits(mask_block=mask_block)
    listed = candidates_for(traits)
    assert listed[0] == traits.default and BASELINE not in listed
    assert len({str(each) for each in listed}) == len(listed) >= 10
    for each in listed:
        policy = CACHE_POLICIES.create(each.cache.name, each.cache.args)
        assert policy.refusal(mask_block) == ""
        REMASKING_POLICIES.create(each.remasking.name, each.remasking.args)
    exact = candidates_for(replace(traits, exact_only=True))
    assert all(
        CACHE_POLICIES.create(each.cache.name, each.cache.args).label(mask_block) == "exact"
        for each in exact
        if each != traits.default
    )
    assert not any(
        each.cache.name == "dllm" for each in candidates_for(replace(traits, num_ranks=2))
    )


@pytest.mark.parametrize(
    ("pair", "problem"),
    [
        (("dual", "treshold"), "did you mean 'threshold'"),
        (("duel", "starr"), "did you mean 'dual'"),
        (("dual:size=3", "starr"), "'size'"),
        (("block_causal", "starr"), "does not take that cache"),
    ],
)
def test_a_wrong_candidate_is_refused_before_a_model_is_loaded(pair, problem):
    with pytest.raises(ConfigError, match=problem):
        parse_candidates([pair], ModelTraits())


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
