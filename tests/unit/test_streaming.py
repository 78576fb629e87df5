"""Streamed texts on a model of single bytes, where characters and stop strings are torn apart."""

from __future__ import annotations

from dataclasses import replace

import pytest

from starr_engine import LLM, BlockOutput, RequestOutput, SamplingParams
from tests.helpers.word_models import write_byte_model

PARAMS = SamplingParams(
    max_tokens=48, block_length=4, remasking="low_confidence", temperature=1.0, ignore_eos=True
)
SEEDS = range(8)


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    return LLM(str(write_byte_model(tmp_path_factory.mktemp("bytes"))), device="cpu")


@pytest.fixture(scope="module")
def texts(llm: LLM) -> list[str]:
    """The whole output for each seed, nothing stopped."""
    return [output.text for output in llm.generate(["ab"] * len(SEEDS), seeded())]


def seeded(**changes: object) -> list[SamplingParams]:
    return [replace(PARAMS, seed=seed, **changes) for seed in SEEDS]


def stream(llm: LLM, params: list[SamplingParams]) -> list[tuple[str, RequestOutput]]:
    """What the texts of the blocks join to, and the output, whose ids the blocks join to."""
    joined = [""] * len(params)
    ids: list[list[int]] = [[] for _ in params]
    outputs: dict[int, RequestOutput] = {}
    for event in llm.stream(["ab"] * len(params), params):
        if isinstance(event, BlockOutput):
            joined[int(event.request_id)] += event.text
            ids[int(event.request_id)] += event.token_ids
        else:
            outputs[int(event.request_id)] = event
            assert tuple(ids[int(event.request_id)]) == event.token_ids
    return [(joined[number], outputs[number]) for number in range(len(params))]


def test_blocks_with_torn_characters_join_to_the_whole_text(llm: LLM, texts: list[str]) -> None:
    assert sum("\ufffd" in text for text in texts) > 4, "the outputs do not test what they should"
    for (joined, output), text in zip(stream(llm, seeded()), texts, strict=True):
        assert joined == output.text == text


@pytest.mark.parametrize("place", [3, 4, 7, 8, 20])
def test_a_stop_string_anywhere_never_shows_in_a_stream(
    llm: LLM, texts: list[str], place: int
) -> None:
    # One token is one byte, so these lie across the edges of blocks for some place or seed.
    stops = [text[place : place + 3] for text in texts]
    params = [
        replace(each, stop=(stop, "never there"))
        for each, stop in zip(seeded(), stops, strict=True)
    ]
    for (joined, output), text, stop in zip(stream(llm, params), texts, stops, strict=True):
        assert joined == output.text == text[: text.index(stop)]
        assert output.finish_reason == "stop"
        assert len(output.token_ids) < PARAMS.max_tokens
