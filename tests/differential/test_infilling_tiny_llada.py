"""The shipped model fills gaps in unseen answers; measured by ``benchmarks.bench_infilling``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from starr_engine import LLM, RequestOutput
from starr_engine.study.tasks import TASKS, make_problems

PROBLEMS_PER_TASK = 10
END = "<|endoftext|>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """An answer with a piece of one to six tokens missing inside."""

    prompt: dict[str, Any]
    missing: tuple[int, ...]


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM("tiny-llada", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def cuts(llm: LLM) -> list[Cut]:
    rng = np.random.default_rng(1)
    encode, made = llm.tokenizer.encode_part, []
    for task in TASKS.values():
        for problem in make_problems(task, "test", PROBLEMS_PER_TASK, seed=11):
            question, answer = encode(problem.prompt), encode(problem.reference)
            length = min(int(rng.integers(1, 7)), len(answer) - 2)
            start = int(rng.integers(1, len(answer) - length))
            stop = start + length
            prompt = {
                "prefix_token_ids": question + answer[:start],
                # The model has learned answers with their end, so the end is given too.
                "suffix_token_ids": answer[stop:] + encode(END),
                "gap": length,
            }
            made.append(Cut(prompt=prompt, missing=tuple(answer[start:stop])))
    return made


def num_right(cuts: list[Cut], outputs: list[RequestOutput]) -> int:
    return sum(got.token_ids == cut.missing for cut, got in zip(cuts, outputs, strict=True))


def test_gaps_of_known_length_are_filled_right_with_fewer_forwards_than_tokens(
    llm: LLM, cuts: list[Cut]
) -> None:
    outputs = llm.generate([cut.prompt for cut in cuts])
    assert num_right(cuts, outputs) >= 34  # of 40
    assert sum(output.nfe for output in outputs) < sum(output.num_unmasked for output in outputs)


def test_the_length_of_a_gap_is_found(llm: LLM, cuts: list[Cut]) -> None:
    outputs = llm.generate([cut.prompt | {"gap": (1, 6)} for cut in cuts])
    assert num_right(cuts, outputs) >= 28  # of 40


def test_slots_of_a_template_read_as_the_answer_does(llm: LLM) -> None:
    [output] = llm.generate(
        {
            "prompt": "JSON for this: Carla works in London as a cook.",
            "template": ['{"name": "', 1, '", "city": "', 1, '", "job": "', 1, '"}' + END],
        }
    )
    assert output.slots == ("Carla", "London", "cook")
    assert output.text == 'Carla", "city": "London", "job": "cook'
