"""What a checkpoint asks for is what a call without parameters gets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from starr_engine import ConfigError, SamplingParams
from starr_engine.models.loading.generation_defaults import generation_defaults
from tests.helpers.checkpoints import write_checkpoint
from tests.helpers.engines import make_llm


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({}, {}),
        ({"temperature": 0.7, "top_p": 0.9}, {}),
        ({"do_sample": True}, {"temperature": 1.0}),
        (
            {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 20, "min_p": 0.1},
            {"temperature": 0.7, "top_p": 0.9, "top_k": 20, "min_p": 0.1},
        ),
        (
            {"max_new_tokens": 99, "repetition_penalty": 1.1, "alg": "origin", "eps": 1e-3},
            {"max_tokens": 99, "repetition_penalty": 1.1},
        ),
    ],
)
def test_fields_are_those_that_transformers_would_heed(
    written: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert generation_defaults(written) == expected


@pytest.mark.parametrize(
    "written", [{"max_new_tokens": -1}, {"do_sample": True, "temperature": "hot"}]
)
def test_values_out_of_range_name_the_file(written: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"generation_config\.json asks for what cannot be"):
        generation_defaults(written)


def test_a_call_without_parameters_takes_them_and_one_with_does_not(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    (folder / "generation_config.json").write_text(json.dumps({"max_new_tokens": 7}))
    llm = make_llm(folder)
    prompt = {"prompt_token_ids": [5, 6]}
    assert llm.default_sampling_params() == SamplingParams(max_tokens=7)
    assert llm.generate(prompt)[0].num_unmasked == 7
    assert llm.generate(prompt, SamplingParams(max_tokens=9))[0].num_unmasked == 9
