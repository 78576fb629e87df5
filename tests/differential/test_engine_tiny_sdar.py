"""The shipped block-causal model: the engine answers as the decoder of training does."""

from __future__ import annotations

import json

import pytest

import starr_engine
from starr_engine import LLM, SamplingParams
from starr_engine.models.loading.locate import resolve_model
from starr_engine.study.tasks import TASKS, Problem
from tools.train_tiny.kinds import kind_of

MODEL = "tiny-sdar"
PER_TASK = 3


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(MODEL, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    """The first shipped problems of each task."""
    [package] = starr_engine.__path__
    with open(f"{package}/assets/problems.jsonl", encoding="utf-8") as lines:
        every = [Problem(**json.loads(line)) for line in lines]
    return [p for name in TASKS for p in [q for q in every if q.task == name][:PER_TASK]]


@pytest.fixture(scope="module")
def expected(llm: LLM, problems: list[Problem]) -> list[str]:
    folder = resolve_model(MODEL)
    kind = kind_of(folder)
    prompts = [llm.tokenizer.encode(p.prompt) for p in problems]
    spec = json.loads((folder / "config.json").read_text())
    ids = (spec["mask_token_id"], spec["eos_token_id"])
    answers = kind.decode(kind.load_model(folder), prompts, *ids)
    return [llm.tokenizer.decode(answer) for answer in answers]


@pytest.mark.parametrize("cache", ["none", "auto"])
def test_one_token_per_step_the_engine_answers_as_the_decoder_of_training(
    llm: LLM, problems: list[Problem], expected: list[str], cache: str
) -> None:
    params = SamplingParams(max_tokens=64, remasking="low_confidence", cache=cache)
    outputs = llm.generate([p.prompt for p in problems], params)
    assert [output.text for output in outputs] == expected


def test_it_solves_nearly_all_of_them(problems: list[Problem], expected: list[str]) -> None:
    solved = 0
    for name, task in TASKS.items():
        mine = [(p, text) for p, text in zip(problems, expected, strict=True) if p.task == name]
        solved += sum(task.score_many([p for p, _ in mine], [text for _, text in mine]))
    assert solved >= 0.8 * len(problems)
