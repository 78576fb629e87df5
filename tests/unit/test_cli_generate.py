"""``generate`` and ``chat`` on a random model: what they print and refuse."""

from __future__ import annotations

import io
import json
import sys

import pytest

from starr_engine import LLM, SamplingParams
from starr_engine.cli.main import main
from tests.helpers.word_models import write_word_model

FLAGS = ["--max-tokens", "16", "--block-length", "8", "--remasking", "low_confidence"]
INFILL = ["--block-length", "4", "--remasking", "low_confidence"]
INFILL_PARAMS = SamplingParams(block_length=4, remasking="low_confidence")
PARAMS = SamplingParams(max_tokens=16, block_length=8, remasking="low_confidence")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_word_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def expected(model: str) -> list:
    return LLM(model).generate(["w1 w2 w3", "w4"], PARAMS)


def test_generate_prints_the_text_that_the_library_gives(model, expected, capsys):
    assert main(["generate", "w1 w2 w3", "--model", model, *FLAGS]) == 0
    assert capsys.readouterr().out == expected[0].text + "\n"


def test_streamed_blocks_join_to_the_same_text(model, expected, capsys):
    assert main(["generate", "w1 w2 w3", "--stream", "--model", model, *FLAGS]) == 0
    assert capsys.readouterr().out == expected[0].text + "\n"


def test_generate_reads_standard_input_without_its_last_newline(
    model, expected, capsys, monkeypatch
):
    monkeypatch.setattr(sys, "stdin", io.StringIO("w1 w2 w3\n"))
    assert main(["generate", "--model", model, "--json", *FLAGS]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["text"] == expected[0].text
    assert shown["token_ids"] == list(expected[0].token_ids)
    assert (shown["nfe"], shown["num_prompt_tokens"]) == (expected[0].nfe, 3)


def test_streamed_json_is_one_object_per_block_and_the_output_last(model, expected, capsys):
    assert main(["generate", "w4", "--stream", "--json", "--model", model, *FLAGS]) == 0
    *blocks, output = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "".join(block["text"] for block in blocks) == output["text"] == expected[1].text
    assert [block["block_index"] for block in blocks] == list(range(len(blocks)))
    assert [token for block in blocks for token in block["token_ids"]] == output["token_ids"]


def test_generate_fills_a_gap_of_given_or_chosen_length(model, capsys):
    ends = ["--prefix", "w1 w2", "--suffix", "w3"]
    assert main(["generate", *ends, "--gap", "3", "--model", model, *INFILL]) == 0
    [gap] = LLM(model).generate({"prefix": "w1 w2", "suffix": "w3", "gap": 3}, INFILL_PARAMS)
    assert capsys.readouterr().out == gap.text + "\n"
    assert main(["generate", *ends, "--gap", "2:4", "--json", "--model", model, *INFILL]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["gap_lengths_tried"] == [2, 3, 4]
    assert shown["slots"] == [shown["text"]]
    assert shown["total_nfe"] > shown["nfe"]


def test_generate_fills_a_template_block_by_block(model, capsys):
    template = '["w2", 2, "w3", 3]'
    argv = ["generate", "w1", "--template", template, "--stream", "--json", "--model", model]
    assert main([*argv, *INFILL]) == 0
    *blocks, output = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "".join(block["text"] for block in blocks) == output["text"]
    assert [len(slot.split()) for slot in output["slots"]] == [2, 3]
    assert (output["num_prompt_tokens"], len(output["token_ids"])) == (2, 6)


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["--prefix", "w1", "--gap", "1:2:3"], "--gap takes a number of tokens or LOW:HIGH"),
        (["--prefix", "w1", "--gap", "few"], "--gap takes a number of tokens or LOW:HIGH"),
        (["--prefix", "w1", "--gap", "4:2"], "low <= high"),
        (["--prefix", "w1"], "needs a gap"),
        (["w1", "--prefix", "w1", "--gap", "2"], "cannot have 'prompt' too"),
        (["w1", "--template", "[1"], "--template must be a JSON list"),
        (["w1", "--template", "5"], "a template is a list"),
        (["--prefix", "w1", "--gap", "2:3", "--stream"], "range cannot be streamed"),
        (["--prefix", "w1", "--gap", "2", "--stop", "x"], "stop cannot be used with a gap"),
    ],
)
def test_a_wrong_gap_or_template_is_one_line_and_exit_code_2(model, capsys, argv, problem):
    assert main(["generate", *argv, "--model", model]) == 2
    shown = capsys.readouterr().err
    assert problem in shown
    assert shown.count("\n") == 1


def test_chat_answers_one_message_through_the_template(model, expected, capsys):
    assert main(["chat", "w2 w3", "--system", "w1", "--model", model, *FLAGS]) == 0
    assert capsys.readouterr().out == expected[0].text + "\n"


def test_a_conversation_goes_on_after_a_message_that_cannot_run(model, capsys, monkeypatch):
    said = iter(["w4", "<mask>", "w5", ""])
    monkeypatch.setattr("builtins.input", lambda _: next(said))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert main(["chat", "--model", model, *FLAGS]) == 0
    shown = capsys.readouterr()
    llm = LLM(model)
    messages = [{"role": "user", "content": "w4"}]
    first = llm.chat(messages, PARAMS)[0].text
    messages += [{"role": "assistant", "content": first}, {"role": "user", "content": "w5"}]
    second = llm.chat(messages, PARAMS)[0].text
    assert shown.out == f"{first}\n{second}\n"
    assert "mask token <mask>" in shown.err


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["generate", "w1", "--stream"], "--stream shows one sample"),
        (["chat", "w1"], "a conversation goes on with one answer"),
    ],
)
def test_where_samples_have_no_place_they_are_refused(model, capsys, argv, problem):
    assert main([*argv, "--model", model, "--n", "2", "--temperature", "1"]) == 2
    assert problem in capsys.readouterr().err


def test_the_attention_backend_has_a_short_flag(model, capsys):
    asked = ["generate", "hello", "--model", model, "--attention", "flash_attn", "--device", "cpu"]
    assert main(asked) != 0
    assert "attention_backend 'flash_attn' cannot serve this model" in capsys.readouterr().err
