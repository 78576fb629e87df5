"""Prompts in every form, and what is said about those that cannot run."""

from __future__ import annotations

from typing import Any

import pytest

from starr_engine import LLM, RequestError, SamplingParams
from tests.helpers.word_models import write_word_model

PARAMS = SamplingParams(max_tokens=8, block_length=4, ignore_eos=True)


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    return LLM(str(write_word_model(tmp_path_factory.mktemp("words"))), device="cpu")


def test_a_text_alone_in_a_mapping_as_ids_and_as_a_chat_give_one_output(llm: LLM) -> None:
    ids = llm.tokenizer.encode("w1 w2")
    outputs = llm.generate(["w1 w2", {"prompt": "w1 w2"}, {"prompt_token_ids": ids}], PARAMS)
    outputs += llm.generate("w1 w2", PARAMS)
    outputs += llm.chat([{"role": "user", "content": "w1 w2"}], PARAMS)
    outputs += llm.chat([[{"role": "user", "content": "w1 w2"}]], PARAMS, use_tqdm=True)
    assert len(outputs) == 6
    assert {output.prompt_token_ids for output in outputs} == {tuple(ids)}
    assert len({output.text for output in outputs}) == 1


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "the prompt is empty"),
        ("w1 <mask>", "the prompt contains the mask token"),
        ({"prompt": 5}, "a prompt is a text"),
        ({"prompt": "w1", "prompt_token_ids": [5]}, "a prompt is a text"),
        ({}, "a prompt is a text"),
        (None, "a prompt is a text"),
    ],
)
def test_a_bad_prompt_is_named_by_its_index(llm: LLM, prompt: Any, message: str) -> None:
    with pytest.raises(RequestError, match=f"^prompt 2: {message}"):
        llm.generate(["w1", "w2", prompt], PARAMS)
    with pytest.raises(RequestError, match=f"^prompt 2: {message}"):
        llm.stream(["w1", "w2", prompt], PARAMS)
    assert not llm.engine.has_unfinished


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ({"role": "user", "content": "w1"}, "prompt 0: messages must be a non-empty list"),
        ("w1", "prompt 0: messages must be a non-empty list"),
        (["w1"], "prompt 0: messages must be a non-empty list"),
        ([[{"role": "user", "content": "w1"}], []], "prompt 1: messages must be a non-empty"),
        ([{"role": "user"}], r"prompt 0: messages\[0\] must be"),
        ([{"role": "user", "content": 1}], r"prompt 0: messages\[0\].content must be a string"),
    ],
)
def test_a_malformed_conversation_is_refused(llm: LLM, messages: Any, message: str) -> None:
    with pytest.raises(RequestError, match=f"^{message}"):
        llm.chat(messages, PARAMS)
    assert llm.chat([], PARAMS) == []
