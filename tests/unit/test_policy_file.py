"""A policy in a file: what is read, what is refused, and how the command line takes it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from starr_engine.cli.main import main
from starr_engine.cli.options import add_sampling_options, sampling_params
from starr_engine.errors import ConfigError
from starr_engine.study.policy_file import load_policy_args, policy_record

ARGS = {"alpha": 0.25, "patience": None, "restart_on_flip": False}


def write(path: Path, **changes: object) -> Path:
    record = policy_record("starr", ARGS, {"goal": {}}) | changes
    path.write_text(json.dumps(record))
    return path


def params_of(*flags: str):
    parser = argparse.ArgumentParser()
    add_sampling_options(parser)
    return sampling_params(parser.parse_args([*flags]))


def test_the_arguments_come_back_as_they_were_written(tmp_path):
    path = write(tmp_path / "p.json")
    assert load_policy_args(path) == load_policy_args(str(path), "starr") == ARGS


def test_the_flag_takes_the_arguments_from_the_file_and_others_override_them(tmp_path):
    path = write(tmp_path / "odd@name.json")
    params = params_of("--remasking", f"starr@{path}", "--remasking-arg", "alpha=0.5")
    assert params.remasking == "starr"
    assert params.remasking_args == ARGS | {"alpha": 0.5}


def test_a_name_without_a_file_is_a_name():
    assert params_of("--remasking", "threshold").remasking == "threshold"


@pytest.mark.parametrize("text", ["@p.json", "starr@"])
def test_half_a_name_and_file_is_refused(text):
    with pytest.raises(ConfigError, match="POLICY or POLICY@FILE"):
        params_of("--remasking", text)


def test_a_file_of_another_policy_is_refused_with_what_to_write(tmp_path):
    path = write(tmp_path / "p.json")
    with pytest.raises(ConfigError, match=r"of the policy 'starr', not of 'threshold'"):
        load_policy_args(path, "threshold")
    assert main(["generate", "x", "--remasking", f"threshold@{path}"]) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a policy file"),
        ('{"policy": "starr", "args": {}}', "is not a policy file"),
    ],
)
def test_another_kind_of_file_is_named_as_such(tmp_path, content, message):
    path = tmp_path / "p.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_policy_args(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 99}, "has version 99, this starr-engine reads version 1"),
        ({"args": None}, 'needs "policy"'),
        ({"policy": 3}, 'needs "policy"'),
        ({"args": {"alpha": [1]}}, r"args\['alpha'\] must be a number"),
        ({"args": {"alhpa": 1.0}}, "did you mean 'alpha'"),
        ({"args": {"alpha": -1.0}}, "alpha must be a finite number >= 0"),
        ({"policy": "stair"}, "did you mean 'starr'"),
    ],
)
def test_a_wrong_content_is_refused_with_the_file_and_the_reason(tmp_path, changes, message):
    path = write(tmp_path / "p.json", **changes)
    with pytest.raises(ConfigError, match=message) as caught:
        load_policy_args(path)
    assert "p.json" in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        load_policy_args(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_policy_args(tmp_path)


def test_a_row_of_a_batch_reads_no_file(tmp_path):
    path = write(tmp_path / "p.json")
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt_token_ids": [5], "remasking": f"starr@{path}"}) + "\n")
    output = tmp_path / "out.jsonl"
    assert main(["batch", "--input", str(rows), "--output", str(output), "--quiet"]) == 0
    assert "unknown remasking policy" in json.loads(output.read_text())["error"]
