"""The policy study on one problem of each set: every setting exists, the numbers hang together."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest

from benchmarks import policy_study
from benchmarks.policy_settings import (
    ABLATIONS,
    CALIBRATED,
    CURVES,
    REFERENCE,
    TABLE,
    study_settings,
)
from starr_engine.decoding.base import REMASKING_POLICIES
from starr_engine.errors import ConfigError
from starr_engine.study.problem_sets import PROBLEM_SETS, set_rows, shipped_rows
from starr_engine.study.references import References, SetOutputs, load_or_make
from starr_engine.study.tasks import ALL_TASKS, split_of

SETTINGS = study_settings({"alpha": 0.2})


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_of_the_study_is_one_that_its_policy_takes(name):
    REMASKING_POLICIES.create(SETTINGS[name].policy, SETTINGS[name].args)


def test_the_study_has_a_reference_curves_and_an_ablation_that_changes_one_thing_each():
    assert next(iter(SETTINGS)) == REFERENCE
    assert SETTINGS[REFERENCE].args == {}
    assert {each.curve for each in SETTINGS.values() if each.kind == "curve"} == set(CURVES)
    base = SETTINGS[CALIBRATED].args
    defaults = {
        each.name: each.default for each in dataclasses.fields(REMASKING_POLICIES.get("starr"))
    }
    for name, change in ABLATIONS.items():
        assert SETTINGS[name].args == {**base, **change}
        assert any({**defaults, **base}[key] != value for key, value in change.items()), name


def test_without_calibration_the_defaults_are_taken_apart():
    plain = study_settings()
    assert CALIBRATED not in plain
    assert set(TABLE) <= set(plain)
    assert plain["starr, alpha = 0"].args == {"alpha": 0.0}


@pytest.mark.parametrize("name", PROBLEM_SETS)
def test_a_set_names_a_task_and_a_canvas_of_whole_blocks(name):
    each = PROBLEM_SETS[name]
    assert each.task in ALL_TASKS
    assert each.max_tokens % each.block_length == 0
    test = each.problems("test", 3, 0)
    assert {split_of(problem.prompt) for problem in test} == {"test"}
    rows = set_rows(name, "demo", 3, 0)
    assert {split_of(str(row["prompt"])) for row in rows} == {"demo"}
    assert all(row["max_tokens"] == each.max_tokens for row in rows)


def test_the_shipped_problems_bring_the_decoding_of_their_set():
    rows = shipped_rows()
    assert len(rows) == 300
    assert {row["max_tokens"] for row in rows} == {64}
    assert not any("block_length" in row for row in rows)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("study")
    output = folder / "result.json"
    argv = ["policy_study", "--num-problems", "1", "--only", "starr*", "--cache", "dual",
            "--sets", "sorting", "json_extraction", "--calibrated", str(folder / "none.json"),
            "--references", str(folder), "--output", str(output)]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", argv)
        policy_study.main()
        [references] = folder.glob("references-*.json")
        written = references.stat().st_mtime_ns
        patch.setattr(sys, "argv", [*argv, "--only", "starr"])
        policy_study.main()
        assert references.stat().st_mtime_ns == written  # read, not made again
    return json.loads(output.read_text())


def test_one_token_per_step_agrees_with_itself(result):
    reference = result["rows"][0]
    assert reference["name"] == REFERENCE
    assert reference["overall"]["agreement"] == 1.0
    assert reference["overall"]["speedup"] == 1.0
    assert reference["overall"]["tpf"] == 1.0


def test_a_row_has_all_numbers_for_every_set(result):
    row = result["rows"][1]
    assert (row["name"], row["policy"]) == ("starr", "starr")
    assert set(row["by_set"]) == {"sorting", "json_extraction"}
    for numbers in [row["overall"], *row["by_set"].values()]:
        low, high = numbers["accuracy_interval"]
        assert low <= numbers["accuracy"] <= high
        assert numbers["tokens_per_s"] > 0
        assert numbers["nfe"] < 64
    speedups = [numbers["speedup"] for numbers in row["by_set"].values()]
    assert row["overall"]["speedup"] == pytest.approx(sum(speedups) / 2)


def test_the_result_says_how_it_was_measured(result):
    setting = result["setting"]
    assert (setting["cache"], setting["split"], setting["ignore_eos"]) == ("dual", "test", False)
    assert setting["sets"]["sorting"] == {"task": "sorting", "max_tokens": 64, "block_length": 32}
    assert result["environment"]["versions"]["torch"]
    assert result["reference_environment"]["date"]


def test_references_come_back_as_they_were_and_a_broken_file_is_refused(tmp_path: Path):
    one = SetOutputs(
        token_ids=[(1, 2), ()], texts=["a", ""], nfe=[3, 4], num_unmasked=[5, 6], wall_s=2.0,
        computed_rows=(7, 8), cache_label="exact",
    )  # fmt: skip
    made = References(by_set={"sorting": one}, environment={"cpu": "x"})
    assert one.tokens_per_s == 1.0
    assert load_or_make(tmp_path / "new", "f", lambda: made) == made

    def never() -> References:
        raise AssertionError("it is there already")

    assert load_or_make(tmp_path / "new", "f", never) == made
    path = tmp_path / "new" / "references-f.json"
    older = json.loads(path.read_text())
    for name in ("computed_rows", "cache_label"):
        del older["by_set"]["sorting"][name]
    path.write_text(json.dumps(older))
    plain = dataclasses.replace(one, computed_rows=(), cache_label="")
    assert load_or_make(tmp_path / "new", "f", never).by_set == {"sorting": plain}
    path.write_text("{}")
    with pytest.raises(ConfigError, match="no file of references"):
        load_or_make(tmp_path / "new", "f", never)
    assert path.read_text() == "{}"
