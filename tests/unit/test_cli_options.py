"""Flags that several commands share, and what they mean."""

from __future__ import annotations

import argparse
import json

import pytest

from starr_engine import SamplingParams
from starr_engine.cli.main import main
from starr_engine.cli.options import add_sampling_options, parse_args_list, sampling_params
from starr_engine.cli.sampling_options import parse_bias
from starr_engine.errors import ConfigError
from tests.helpers.word_models import write_word_model

FLAGS = ["--max-tokens", "16", "--block-length", "8", "--remasking", "low_confidence"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_word_model(tmp_path_factory.mktemp("model")))


def test_policy_arguments_are_json_scalars_or_text():
    entries = ["a=0.9", "b=3", "c=true", "d=null", "e=fast", 'f="3"', "g=x=y", "h="]
    assert parse_args_list("--x", entries) == {
        "a": 0.9, "b": 3, "c": True, "d": None, "e": "fast", "f": "3", "g": "x=y", "h": "",
    }  # fmt: skip


@pytest.mark.parametrize("entries", [["a"], ["=1"], ["a=1", "a=2"], ["a=[1]"], ["a={}"]])
def test_other_policy_arguments_are_refused(entries):
    with pytest.raises(ConfigError, match="--x"):
        parse_args_list("--x", entries)


SAMPLING_FLAGS = [
    "--temperature", "1", "--top-p", "0.9", "--top-k", "5", "--min-p", "0.1", "--n", "2",
    "--repetition-penalty", "1.2", "--presence-penalty", "0.5", "--frequency-penalty", "-0.5",
    "--logit-bias", "17=2.5", "--logit-bias", "9=-100", "--bad-word", "w5 w6", "--bad-word", "w7",
    "--allowed-token-id", "17", "--allowed-token-id", "18", "--logprobs", "1", "--min-tokens", "3",
    "--suppress-eos", "--eos-last", "--include-stop-str-in-output", "--keep-special-tokens",
    "--cache-probe-rate", "0.5",
]  # fmt: skip


def test_every_sampling_field_has_a_flag():
    parser = argparse.ArgumentParser()
    add_sampling_options(parser)
    given = sampling_params(parser.parse_args(SAMPLING_FLAGS))
    assert given == SamplingParams(
        temperature=1, top_p=0.9, top_k=5, min_p=0.1, n=2, repetition_penalty=1.2,
        presence_penalty=0.5, frequency_penalty=-0.5, logit_bias={17: 2.5, 9: -100},
        bad_words=("w5 w6", "w7"), allowed_token_ids=(17, 18), logprobs=1, min_tokens=3,
        suppress_eos=True, eos_last=True, include_stop_str_in_output=True,
        skip_special_tokens=False, cache_probe_rate=0.5,
    )  # fmt: skip
    assert sampling_params(parser.parse_args([])) == SamplingParams()


@pytest.mark.parametrize(
    ("entries", "problem"),
    [(["17"], "takes ID=VALUE, got '17'"), (["x=1"], "ID=VALUE"), (["5=1", "5=2"], "given twice")],
)
def test_a_bias_that_is_none_is_refused(entries, problem):
    with pytest.raises(ConfigError, match=problem):
        parse_bias(entries)


def test_generate_prints_every_sample_and_their_log_probabilities(model, capsys):
    flags = ["--model", model, *FLAGS, *SAMPLING_FLAGS, "--n", "3"]
    assert main(["generate", "w1 w2", *flags]) == 0
    texts = capsys.readouterr().out.splitlines()
    assert len(texts) == 3
    assert main(["generate", "w1 w2", "--json", *flags]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [sample["text"] for sample in shown["samples"]] == texts
    assert [token["token_id"] for token in shown["logprobs"]] == shown["token_ids"]
    assert shown["samples"][0]["drift"] == shown["drift"]
    assert 0 < shown["drift"]["probe_forwards"] <= shown["nfe"]
