"""What ``SamplingParams`` takes, settles and refuses."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest

from starr_engine import RequestError, SamplingParams
from starr_engine.unsupported import UNSUPPORTED_FIELDS


def test_block_length_and_cache_are_left_to_the_model() -> None:
    params = SamplingParams()
    assert params.block_length is None
    assert params.cache == "auto"


def test_arguments_of_a_cache_policy_need_its_name() -> None:
    with pytest.raises(RequestError, match="cache_args belong to a policy; name it with cache"):
        SamplingParams(cache_args={"refresh_every": 2})
    assert SamplingParams(cache="dual", cache_args={"refresh_every": 2}).cache == "dual"


def test_numbers_of_numpy_become_plain_numbers() -> None:
    params = SamplingParams(
        max_tokens=np.int64(16),  # type: ignore[arg-type]
        block_length=np.int32(8),  # type: ignore[arg-type]
        seed=np.uint64(2**63 - 1),  # type: ignore[arg-type]
        temperature=np.float32(0.5),  # type: ignore[arg-type]
        stop_token_ids=np.array([3, 4]),  # type: ignore[arg-type]
    )
    assert params == SamplingParams(
        max_tokens=16, block_length=8, seed=2**63 - 1, temperature=0.5, stop_token_ids=(3, 4)
    )
    assert {type(value) for value in (params.max_tokens, params.block_length, params.seed)} == {int}
    assert type(params.temperature) is float
    assert type(params.stop_token_ids[0]) is int


def test_one_stop_a_list_and_an_iterator_all_become_a_tuple() -> None:
    assert SamplingParams(stop="end").stop == ("end",)  # type: ignore[arg-type]
    assert SamplingParams(stop=["a", "b"]).stop == ("a", "b")  # type: ignore[arg-type]
    assert SamplingParams(stop=iter("ab")).stop == ("a", "b")  # type: ignore[arg-type]


def test_arguments_are_copied_so_that_later_changes_do_not_reach_them() -> None:
    args: dict[str, Any] = {"threshold": 0.9}
    params = SamplingParams(remasking="threshold", remasking_args=args)
    args["threshold"] = 0.1
    assert params.remasking_args == {"threshold": 0.9}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_tokens": True}, "max_tokens must be a positive integer, got True"),
        ({"max_tokens": 64.0}, "max_tokens must be a positive integer, got 64.0"),
        ({"block_length": "32"}, "block_length must be a positive integer, got '32'"),
        ({"block_length": 0}, "block_length must be a positive integer, got 0"),
        ({"temperature": float("nan")}, "temperature must be a finite number >= 0, got nan"),
        ({"temperature": float("inf")}, "temperature must be a finite number"),
        ({"temperature": -0.1}, "temperature must be a finite number"),
        ({"temperature": True}, "temperature must be a finite number >= 0, got True"),
        ({"temperature": "1"}, "temperature must be a finite number"),
        ({"temperature": 10**400}, "temperature must be a finite number"),
        ({"temperature": 10**300}, "temperature must be a finite number"),
        ({"seed": 2**63}, r"seed must be an integer in \[0, 2\*\*63\)"),
        ({"seed": 1.0}, "seed must be an integer"),
        ({"seed": None}, "seed must be an integer"),
        ({"stop": None}, "stop must hold non-empty strings, got None"),
        ({"stop": 5}, "stop must hold non-empty strings, got 5"),
        ({"stop": ["a", ""]}, "stop must hold non-empty strings"),
        ({"stop": [b"a"]}, "stop must hold non-empty strings"),
        ({"stop_token_ids": 5}, "stop_token_ids must hold token ids >= 0, got 5"),
        ({"stop_token_ids": [-1]}, "stop_token_ids must hold token ids"),
        ({"stop_token_ids": [True]}, "stop_token_ids must hold token ids"),
        ({"stop_token_ids": [1.5]}, "stop_token_ids must hold token ids"),
        ({"ignore_eos": "no"}, "ignore_eos must be True or False, got 'no'"),
        ({"suppress_eos": 1}, "suppress_eos must be True or False, got 1"),
        ({"eos_last": None}, "eos_last must be True or False"),
        ({"skip_special_tokens": "yes"}, "skip_special_tokens must be True or False"),
        ({"top_p": 0}, r"top_p must be a number in \(0, 1\], got 0"),
        ({"top_p": 1.1}, r"top_p must be a number in \(0, 1\]"),
        ({"top_p": True}, "top_p must be a number"),
        ({"top_k": -2}, "top_k must be an integer >= 1, or 0 or -1 for off, got -2"),
        ({"top_k": 1.0}, "top_k must be an integer"),
        ({"min_p": -0.1}, r"min_p must be a number in \[0, 1\]"),
        ({"min_p": float("nan")}, "min_p must be a number"),
        ({"repetition_penalty": 0}, "repetition_penalty must be a finite number > 0"),
        ({"presence_penalty": 2.5}, r"presence_penalty must be a number in \[-2, 2\], got 2.5"),
        ({"frequency_penalty": "1"}, "frequency_penalty must be a number"),
        ({"logit_bias": {5: 101}}, r"logit_bias must be a mapping of token ids >= 0 to numbers"),
        ({"logit_bias": {"five": 1}}, "logit_bias must be a mapping"),
        ({"logit_bias": {-1: 1}}, "logit_bias must be a mapping"),
        ({"logit_bias": {5: None}}, "logit_bias must be a mapping"),
        ({"logit_bias": [5]}, "logit_bias must be a mapping"),
        ({"bad_words": ["a", " "]}, "bad_words must be non-empty strings"),
        ({"bad_words": 5}, "bad_words must be non-empty strings, got 5"),
        ({"allowed_token_ids": []}, "allowed_token_ids must be None or a non-empty list"),
        ({"allowed_token_ids": [1.5]}, "allowed_token_ids must be None or a non-empty list"),
        ({"min_tokens": -1}, "min_tokens must be an integer >= 0"),
        ({"min_tokens": 65}, "min_tokens=65 is more than max_tokens=64"),
        ({"n": 0}, "n must be an integer in 1 .. 1024, got 0"),
        ({"n": 2}, "n=2 samples at temperature 0 would all be equal"),
        ({"logprobs": 21}, "logprobs must be None or an integer in 0 .. 20, got 21"),
        ({"logprobs": True}, "logprobs must be None or an integer"),
        ({"best_of": 3}, "best_of is not supported: samples are not ranked; use n"),
        (
            {"use_beam_search": True, "top_a": 0.1},
            "use_beam_search is not supported: .*; top_a is not supported: use top_p",
        ),
        ({"remasking": None}, "remasking must be a policy name, got None"),
        ({"cache": 3}, "cache must be a policy name, got 3"),
        ({"remasking_args": [("a", 1)]}, "remasking_args must map names to values"),
        ({"remasking_args": {1: 2}}, "remasking_args must map names to values"),
        (
            {"cache_args": {"refresh_every": [2]}},
            r"cache_args\['refresh_every'\] must be a number, a text, .* got \[2\]",
        ),
    ],
)
def test_a_value_of_the_wrong_kind_or_range_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        SamplingParams(**changes)


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(RequestError) as caught:
        SamplingParams(max_tokens=0, seed=-1, temperature=-1, stop=("",), top_p=2, n=0)
    named = [problem.split()[0] for problem in str(caught.value).split("; ")]
    assert named == ["max_tokens", "temperature", "seed", "stop", "top_p", "n"]


def test_overrides_are_checked_anew_and_leave_the_original_alone() -> None:
    params = SamplingParams(max_tokens=32)
    changed = params.with_overrides({"max_tokens": 64, "seed": 3})
    assert (changed.max_tokens, changed.seed, params.max_tokens) == (64, 3, 32)
    with pytest.raises(RequestError, match="max_tokens must be a positive integer"):
        params.with_overrides({"max_tokens": 0})
    with pytest.raises(RequestError, match="unknown sampling field 'max_token'; did you mean"):
        params.with_overrides({"max_token": 64})


def test_parameters_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SamplingParams().seed = 1  # type: ignore[misc]


def test_both_words_for_no_top_k_are_one() -> None:
    assert SamplingParams(top_k=-1) == SamplingParams(top_k=0) == SamplingParams()


def test_ids_of_a_bias_may_be_text_as_in_json() -> None:
    params = SamplingParams(logit_bias={"17": 2, np.int64(4): -100})
    assert params.logit_bias == {17: 2, 4: -100}
    assert [type(token) for token in params.logit_bias] == [int, int]


def test_one_bad_word_and_ids_of_numpy_become_tuples() -> None:
    params = SamplingParams(bad_words="no", allowed_token_ids=np.array([5, 6]), top_p=np.float32(1))
    assert (params.bad_words, params.allowed_token_ids) == (("no",), (5, 6))
    assert type(params.top_p) is float


def test_overrides_of_other_engines_are_refused_with_their_reason() -> None:
    with pytest.raises(RequestError, match="guided_json is not supported: outputs cannot be bound"):
        SamplingParams().with_overrides({"guided_json": {}})


def test_what_is_neither_known_nor_listed_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'temprature'"):
        SamplingParams(temprature=1)  # type: ignore[call-arg]


def test_parameters_can_be_copied_and_sent_to_another_process() -> None:
    params = SamplingParams(logit_bias={5: 1.0}, stop=("a",))
    assert copy.deepcopy(params) == copy.copy(params) == params


def test_no_field_is_listed_as_not_supported() -> None:
    fields = {field.name for field in dataclasses.fields(SamplingParams)}
    assert not fields & set(UNSUPPORTED_FIELDS)
