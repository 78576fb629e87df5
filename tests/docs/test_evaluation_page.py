"""docs/evaluation.md: its blocks run, and its table names what is taken."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")

from starr_engine.study.grid.read import read_grids
from starr_engine.study.likelihood.scorer import DEFAULT_SAMPLES
from starr_engine.study.lm_eval.arguments import DEFAULT_MAX_GEN_TOKS, parse_arguments

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "evaluation.md").read_text()


def blocks(kind: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == kind]


def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    [example] = blocks("python")
    # The data's copy that the harness keeps goes nowhere else.
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    exec(compile(example, "docs/evaluation.md", "exec"), {})
    accuracy, tokens_per_forward = map(float, capsys.readouterr().out.split()[-2:])
    assert 0 < accuracy <= 1 < tokens_per_forward


def test_the_command_names_arguments_that_exist():
    [command] = blocks("sh")
    words = shlex.split(command)
    assert words[:2] == ["starr-engine", "lm-eval"]
    given = dict(each.split("=") for each in words[words.index("--model_args") + 1].split(","))
    assert parse_arguments(given).sampling == {"cache": "none", "remasking": "threshold"}
    assert (ROOT / words[words.index("--include_path") + 1] / "my_sorting.yaml").is_file()


def test_the_grid_is_one(tmp_path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    [shown] = blocks("yaml")
    (tmp_path / "grid.yaml").write_text(shown)
    [grid] = read_grids(tmp_path / "grid.yaml")
    assert [task.name for task in grid.tasks] == ["lm_eval:my_sorting", "two shown"]


def test_defaults_are_those_of_the_code():
    assert f"that name no number; {DEFAULT_MAX_GEN_TOKS} |" in PAGE
    assert f"masks per block of a likelihood; {DEFAULT_SAMPLES} |" in PAGE
    assert f"up to {(DEFAULT_SAMPLES + 1).bit_length() - 1} tokens with {DEFAULT_SAMPLES}" in PAGE
