"""The pictures of docs/concepts.md are what the shipped model and the policies do."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from starr_engine import LLM
from starr_engine.study.tasks import Problem
from tools.draw_concepts import (
    CHAIN,
    FOLDER,
    PROBLEM,
    PROBLEMS,
    draw_blocks,
    draw_forwards,
    draw_plans,
)

PAGE = (Path(__file__).parents[2] / "docs" / "concepts.md").read_text()


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM("tiny-llada", device="cpu", dtype="float32", num_threads=1)


def problem(name: str) -> Problem:
    rows = [json.loads(line) for line in PROBLEMS.read_text().splitlines()]
    [found] = [Problem(**row) for row in rows if row["id"] == name]
    return found


def test_the_answer_fills_in_as_drawn(llm: LLM):
    picture = draw_blocks(llm, problem(PROBLEM).prompt)
    assert picture == (FOLDER / "blocks.svg").read_text()
    # What the page says of it: at forward 4 a token is masked again.
    assert "over five forwards" in picture
    assert picture.index("forward 4") < picture.index('class="back"') < picture.index("forward 5")


def test_the_forwards_unmask_as_many_tokens_as_drawn(llm: LLM):
    picture = draw_forwards(llm, problem(CHAIN))
    assert picture == (FOLDER / "forwards.svg").read_text()
    assert re.findall(r"which is (\w+)", picture) == ["right", "wrong", "right"]


def test_the_plans_are_those_of_the_policies():
    assert draw_plans() == (FOLDER / "plans.svg").read_text()


def test_every_picture_is_shown():
    assert set(re.findall(r"images/concepts/(\w+)\.svg", PAGE)) == {
        path.stem for path in FOLDER.glob("*.svg")
    }
