"""What a row may say, and that a bad one costs nobody but itself."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from starr_engine.errors import RequestError
from starr_engine.offline.rows import (
    OPTIONAL_FIELDS,
    RESULT_FIELDS,
    RawRow,
    Row,
    output_row,
    parse_row,
)
from starr_engine.outputs import CacheDrift, TokenLogprob
from starr_engine.params import SamplingParams
from tests.helpers.fake_llm import FakeTokenizer, make_output

DEFAULTS = SamplingParams(remasking="threshold", remasking_args={"threshold": 0.9})


def parse(**columns: object):
    return parse_row(RawRow(index=7, columns=columns), DEFAULTS, FakeTokenizer)


def ids_of(row: Row) -> tuple[int, ...]:
    [prompt] = row.candidates
    assert prompt.template is None
    return tuple(prompt.prompt_token_ids)


def test_a_text_prompt_becomes_ids_with_the_default_parameters():
    row = parse(prompt="ab")
    assert (row.index, ids_of(row), row.params, row.error) == (7, (97, 98), DEFAULTS, None)


def test_messages_go_through_the_chat_template():
    row = parse(messages=[{"role": "u", "content": "a"}])
    assert bytes(ids_of(row)) == b"<u>a"


def test_token_ids_are_taken_as_they_are():
    assert ids_of(parse(prompt_token_ids=[5, 6])) == (5, 6)


def test_sampling_fields_override_the_flags_and_all_others_stay():
    row = parse(prompt="a", max_tokens=128, stop=["x"], seed=3)
    assert row.error is None
    assert (row.params.max_tokens, row.params.stop, row.params.seed) == (128, ("x",), 3)
    assert row.params.remasking_args == {"threshold": 0.9}


def test_another_policy_does_not_inherit_the_arguments_of_the_flags_policy():
    assert parse(prompt="a", remasking="low_confidence").params.remasking_args == {}
    assert parse(prompt="a", remasking="threshold").params.remasking_args == {"threshold": 0.9}


def test_null_counts_as_absent_as_parquet_fills_every_column():
    row = parse(
        prompt="a", messages=None, prompt_token_ids=None, seed=None, text=None,
        remasking_args={"threshold": 0.5, "other": None},
    )  # fmt: skip
    assert row.error is None
    assert row.params.remasking_args == {"threshold": 0.5}
    assert parse(messages=[{"role": "u", "content": "a", "name": None}]).error is None


def test_other_columns_are_carried_in_their_order():
    row = parse(z=[1, {"a": None}], prompt="a", id="x1", b=None, seed=1)
    assert row.row_id == "x1"
    assert list(row.carried.items()) == [("z", [1, {"a": None}]), ("b", None)]


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        (
            {},
            "prompt_token_ids, or a gap or template; this one has none",
        ),
        ({"prompt": "a", "prompt_token_ids": [1]}, "this one has prompt and prompt_token_ids"),
        ({"prompt": 5}, "prompt must be a string, got 5"),
        ({"prompt": ""}, "empty"),
        ({"prompt": "a\0b"}, "mask token"),
        ({"messages": {"role": "u", "content": "a"}}, "messages must be a list"),
        ({"messages": ["hello"]}, r"messages\[0\] must be"),
        ({"messages": []}, "non-empty list"),
        ({"prompt_token_ids": "1 2"}, "prompt_token_ids must be a list"),
        ({"prompt_token_ids": [3, "4"]}, "must hold integers"),
        ({"prompt_token_ids": [True]}, "must hold integers"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens must be a positive integer"),
        ({"prompt": "a", "max_tokens": 64.0}, "max_tokens must be a positive integer"),
        ({"prompt": "a", "max_tokens": "64"}, "max_tokens must be a positive integer"),
        ({"prompt": "a", "temperature": "hot"}, "temperature must be"),
        ({"prompt": "a", "temperature": True}, "temperature must be a number"),
        ({"prompt": "a", "ignore_eos": 1}, "ignore_eos must be true or false"),
        ({"prompt": "a", "eos_last": 0}, "eos_last must be true or false"),
        ({"prompt": "a", "bad_words": 5}, "bad_words must be a string or a list"),
        ({"prompt": "a", "allowed_token_ids": "5"}, "allowed_token_ids must be a list"),
        ({"prompt": "a", "logit_bias": [1]}, "logit_bias must be a mapping"),
        ({"prompt": "a", "top_p": 0}, r"top_p must be a number in \(0, 1\]"),
        ({"prompt": "a", "n": 2}, "n=2 samples at temperature 0"),
        ({"prompt": "a", "samples": 3}, "column 'samples' has the name of an output column"),
        ({"prompt": "a", "drift": 3}, "column 'drift' has the name of an output column"),
        ({"prompt": "a", "cache_probe_rate": 2}, "cache_probe_rate must be a number in"),
        ({"prompt": "a", "stop": 5}, "stop must be a string or a list"),
        ({"prompt": "a", "stop": [5]}, "stop must hold non-empty strings"),
        ({"prompt": "a", "stop_token_ids": 5}, "stop_token_ids must be a list"),
        ({"prompt": "a", "stop_token_ids": ["x"]}, "stop_token_ids must hold"),
        ({"prompt": "a", "seed": -1}, "seed must be"),
        ({"prompt": "a", "remasking": 3}, "remasking must be a policy name"),
        ({"prompt": "a", "remasking_args": [1]}, "remasking_args must map"),
        ({"prompt": "a", "text": "gold"}, "column 'text' has the name of an output column"),
    ],
)
def test_a_bad_row_says_what_is_wrong(columns: dict, problem: str):
    row = parse(id=1, answer=42, **columns)
    with pytest.raises(RequestError, match=problem):
        raise RequestError(row.error or "no error")
    assert (row.row_id, row.carried, row.candidates) == (1, {"answer": 42}, ())


def test_a_model_without_a_tokenizer_still_takes_ids():
    def no_tokenizer() -> FakeTokenizer:
        raise RequestError("this model has no tokenizer")

    text, ids = (
        parse_row(RawRow(index=0, columns=columns), DEFAULTS, no_tokenizer)
        for columns in ({"prompt": "a"}, {"prompt_token_ids": [4]})
    )
    assert text.error == "this model has no tokenizer"
    assert (ids.error, ids_of(ids)) == (None, (4,))


def test_a_row_that_could_not_be_read_keeps_the_readers_reason():
    row = parse_row(RawRow(index=0, error="line 1 is not JSON"), DEFAULTS, FakeTokenizer)
    assert row.error == "line 1 is not JSON"


def test_the_output_has_id_then_carried_columns_then_the_result():
    columns = output_row(parse(prompt="a", answer=4, id=9), make_output("r", (97,), "hi", 3))
    assert columns == {
        "id": 9, "answer": 4, "text": "hi", "token_ids": [104, 105], "finish_reason": "stop",
        "nfe": 3, "tpf": 4.0, "cache_label": "exact", "error": None,
    }  # fmt: skip
    assert list(columns) == ["id", "answer", *RESULT_FIELDS]


def test_an_error_fills_nothing_else():
    columns = output_row(parse(prompt="a", answer=4), "too long")
    assert columns == {"id": None, "answer": 4, **dict.fromkeys(RESULT_FIELDS), "error": "too long"}


def test_a_row_with_a_gap_or_a_template_becomes_its_canvas():
    row = parse(prefix="ab", suffix="c", gap=2)
    [gap] = row.candidates
    assert (list(gap.prompt_token_ids), gap.template) == ([97, 98], [None, None, 99])
    [template] = parse(prompt="ab", template=["c", 1]).candidates
    assert (list(template.prompt_token_ids), template.template) == ([97, 98], [99, None])
    assert len(parse(prefix="a", gap=[1, 3]).candidates) == 3


def test_a_text_of_json_stands_for_what_a_parquet_column_cannot_hold():
    assert (
        parse(prompt="ab", template='["c", 1]').candidates
        == parse(prompt="ab", template=["c", 1]).candidates
    )
    assert parse(prefix="a", gap="[1, 3]").candidates == parse(prefix="a", gap=[1, 3]).candidates


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"prefix": "a", "suffix": "b"}, "needs a gap"),
        ({"prefix": "a", "gap": "1:3"}, "gap must be JSON, got '1:3'"),
        ({"prompt": "a", "template": "[1"}, "template must be JSON"),
        ({"prompt": "a", "suffix": "b", "gap": 1}, "cannot have 'prompt' too"),
        ({"messages": [], "template": [1]}, "cannot have 'messages' too"),
        ({"prefix": "a", "gap": 1, "max_tokens": 8}, "drop max_tokens"),
        ({"prefix": "a", "gap": 1, "slots": 2}, "column 'slots' has the name of an output column"),
    ],
)
def test_a_bad_gap_or_template_says_what_is_wrong(columns: dict, problem: str):
    row = parse(id=1, answer=42, **columns)
    with pytest.raises(RequestError, match=problem):
        raise RequestError(row.error or "no error")
    assert row.candidates == ()


def test_slots_are_a_column_of_rows_that_have_them_and_else_a_column_like_others():
    result = replace(make_output("r", (97,), "hi", 3), slots=("h", "i"))
    assert output_row(parse(prefix="a", gap=2), result)["slots"] == ["h", "i"]
    assert "slots" not in output_row(parse(prompt="a"), result)
    assert output_row(parse(prompt="a", slots=5), result)["slots"] == 5


def test_every_sampling_field_may_stand_in_a_row():
    row = parse(
        prompt="a", top_p=0.5, top_k=-1, min_p=0.1, repetition_penalty=1.1, presence_penalty=1,
        frequency_penalty=-1, logit_bias={"97": 5, "98": None}, bad_words="no", min_tokens=2,
        allowed_token_ids=[97], n=2, logprobs=3, temperature=1, eos_last=True, suppress_eos=True,
        include_stop_str_in_output=True, skip_special_tokens=False, best_of=None,
    )  # fmt: skip
    assert row.error is None
    assert row.params == SamplingParams(
        remasking="threshold", remasking_args={"threshold": 0.9}, top_p=0.5, min_p=0.1,
        repetition_penalty=1.1, presence_penalty=1, frequency_penalty=-1, logit_bias={97: 5},
        bad_words=("no",), min_tokens=2, allowed_token_ids=(97,), n=2, logprobs=3, temperature=1,
        eos_last=True, suppress_eos=True, include_stop_str_in_output=True,
        skip_special_tokens=False,
    )  # fmt: skip


def test_rows_that_ask_have_log_probabilities_and_samples():
    tokens = (TokenLogprob(token_id=104, logprob=-0.5, step=2, top=((7, -0.25), (104, -0.5))),)
    drift = CacheDrift(probe_forwards=2)
    first = replace(make_output("r", (97,), "h", 3), logprobs=tokens, drift=drift)
    second = replace(make_output("r.1", (97,), "i", 4), logprobs=tokens[:0])
    shown = {
        "token_id": 104, "logprob": -0.5, "step": 2,
        "top": [{"token_id": 7, "logprob": -0.25}, {"token_id": 104, "logprob": -0.5}],
    }  # fmt: skip
    columns = output_row(parse(prompt="a"), replace(first, other_samples=(second,)))
    assert list(columns) == ["id", *RESULT_FIELDS, *OPTIONAL_FIELDS]
    assert (columns["text"], columns["logprobs"]) == ("h", [shown])
    assert columns["drift"] == {
        "probe_forwards": 2, "rows_compared": 0, "flip_rate": None, "mean_kl": None,
        "max_kl": None, "mean_confidence_error": None, "max_confidence_error": None,
    }  # fmt: skip
    assert columns["samples"] == [
        {"text": "h", "token_ids": [104], "finish_reason": "stop", "nfe": 3, "tpf": 4.0,
         "logprobs": [shown], "drift": asdict(drift)},
        {"text": "i", "token_ids": [105], "finish_reason": "stop", "nfe": 4, "tpf": 3.0,
         "logprobs": []},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("best_of", 1, "best_of is not supported: samples are not ranked"),
        ("guided_regex", "a+", "guided_regex is not supported: outputs cannot"),
        ("tools", [], "tools is not supported: tools are not called"),
        ("typical_p", 0.9, "typical_p is not supported: use top_p"),
    ],
)
def test_what_other_engines_offer_and_this_does_not_is_refused_and_never_ignored(
    name: str, value: object, problem: str
):
    row = parse(prompt="a", answer=4, **{name: value})
    assert problem in (row.error or "")
    assert parse(prompt="a", answer=4, **{name: None}).error is None
