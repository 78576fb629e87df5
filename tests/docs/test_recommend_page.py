"""docs/recommend.md: its commands are ones, and its numbers are the code's."""

from __future__ import annotations

import re
import shlex

from starr_engine.cli.main import make_parser
from starr_engine.cli.recommend import DEFAULT_LOSS, DEFAULT_PROMPTS, search_of
from starr_engine.study.recommend.choose import TIE
from starr_engine.study.recommend.rounds import FIRST_PROMPTS
from starr_engine.study.recommend.run import EXIT_NOT_REACHED
from tests.helpers.fake_bench import write_questions
from tools.result_tables import DOCS

PAGE = (DOCS / "recommend.md").read_text()


def test_the_commands_are_searches(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_questions(tmp_path / "mine.jsonl")
    [block] = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    commands = block.replace("\\\n", " ").splitlines()
    found = [
        search_of(make_parser("recommend").parse_args(shlex.split(command)[1:]))
        for command in commands
    ]
    assert [each.template.batch_size for each in found] == [1, 32, 1]
    assert [each.goal.most_loss for each in found] == [DEFAULT_LOSS, 0.01, None]
    assert [each.num_prompts for each in found] == [10, 10, 1000]
    assert found[2].budget_s == 300
    assert all(16 <= len(each.candidates) <= 24 for each in found)


def test_its_numbers_are_those_of_the_code():
    assert f"`--max-loss Y` ({DEFAULT_LOSS})" in PAGE
    assert f"`--num-prompts` ({DEFAULT_PROMPTS})" in PAGE
    assert f"run on {FIRST_PROMPTS} prompts" in PAGE
    assert f"within {100 * TIE:.0f} % of its time" in PAGE
    assert f"exit code {EXIT_NOT_REACHED}" in PAGE
