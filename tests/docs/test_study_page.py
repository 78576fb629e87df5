"""docs/study.md says what the command takes, and its blocks are what it takes."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from pathlib import Path

from starr_engine.cli.main import make_parser
from starr_engine.cli.study import grids_of
from starr_engine.study.grid.axes import Grid
from starr_engine.study.grid.job import StudyJob
from starr_engine.study.grid.read import read_grids
from tests.helpers.fake_bench import write_questions

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "study.md").read_text()


def blocks(kind: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == kind]


def test_the_table_lists_every_entry_of_a_grid_and_its_flag():
    rows = re.findall(r"^\| `(\w+)` \| `(--[\w-]+)", PAGE, re.MULTILINE)
    assert [name for name, _ in rows] == [each.name for each in fields(Grid)]
    known = make_parser("study").parse_args(["study", "--output", "x"])
    for _, flag in rows:
        value = "a=1" if flag in ("--engine", "--sampling") else "1"
        assert make_parser("study").parse_args(["study", "--output", "x", flag, value]) != known


def test_the_grid_shown_is_the_example(tmp_path):
    [shown] = blocks("yaml")
    (tmp_path / "shown.yaml").write_text(shown)
    assert read_grids(tmp_path / "shown.yaml") == read_grids(ROOT / "examples" / "study.yaml")


def test_the_commands_are_grids(tmp_path, monkeypatch):
    write_questions(tmp_path / "mine.jsonl")
    for folder in ("examples", "benchmarks"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    monkeypatch.chdir(tmp_path)
    commands = [line for block in blocks("sh") for line in block.replace("\\\n", " ").splitlines()]
    assert len(commands) == 3
    counts = []
    for command in commands:
        args = make_parser("study").parse_args(shlex.split(command)[1:])
        counts.append(len(list(StudyJob(grids=grids_of(args), folder=args.output).cells())))
    assert counts[:2] == [2 * 3 * 4, 2 * 2]
    assert f"{counts[2]:,} cells" in PAGE
