"""Every switch of a LLaDA configuration is computed as published or refused by name."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from starr_engine.errors import ConfigError
from starr_engine.models.base import ModelSpec
from starr_engine.models.families.llada import LLaDAModel
from starr_engine.models.families.llada_config import LLaDAConfig
from starr_engine.models.loading.config_files import ConfigFiles
from tests.helpers.checkpoints import llada_config

# What the LLaDA-8B checkpoints write, as far as it bears on the arithmetic.
LLADA_8B = llada_config(
    d_model=4096,
    n_heads=32,
    n_kv_heads=32,
    n_layers=32,
    mlp_hidden_size=12288,
    max_sequence_length=4096,
    rope_theta=500000.0,
    vocab_size=126464,
    embedding_size=126464,
    mask_token_id=126336,
    eos_token_id=126081,
    pad_token_id=126081,
)


def refusal(config: dict[str, Any]) -> str:
    """Message of the refusal of ``config``."""
    with pytest.raises(ConfigError) as caught:
        LLaDAConfig.read(config)
    return str(caught.value)


def without(name: str) -> dict[str, Any]:
    """A valid configuration that lacks one field."""
    return {key: value for key, value in llada_config().items() if key != name}


def test_llada_8b_is_understood() -> None:
    assert LLaDAConfig.read(LLADA_8B) == LLaDAConfig(
        spec=ModelSpec(
            architecture="LLaDAModelLM",
            vocab_size=126464,
            hidden_size=4096,
            num_layers=32,
            num_heads=32,
            num_kv_heads=32,
            head_dim=128,
            max_model_len=4096,
            mask_token_id=126336,
            eos_token_ids=(126081,),
            attention_kind="bidirectional",
        ),
        mlp_hidden_size=12288,
        rms_norm_eps=1e-5,
        rope_theta=500000.0,
        rope_full_precision=True,
        weight_tying=False,
        qkv_bias=False,
        linear_bias=False,
        norm_bias=False,
    )


def test_llada_8b_has_eight_billion_parameters_and_takes_no_memory_before_loading() -> None:
    parameters = list(LLaDAModel.from_files(ConfigFiles(config=LLADA_8B)).parameters())
    # 2 * 126464 * 4096 + 32 * (4 * 4096^2 + 3 * 4096 * 12288 + 2 * 4096) + 4096
    assert sum(parameter.numel() for parameter in parameters) == 8_015_581_184
    assert {parameter.device.type for parameter in parameters} == {"meta"}


@pytest.mark.parametrize(
    ("field", "value", "supported"),
    [
        ("block_type", "sequential", "'llama'"),
        ("activation_type", "swiglu", "'silu'"),
        ("activation_type", "gelu", "'silu'"),
        ("layer_norm_type", "gemma_rms", "'rms'"),
        ("layer_norm_with_affine", False, "True"),
        ("rope", False, "True"),
        ("alibi", True, "False"),
        ("attention_layer_norm", True, "False"),
        ("input_emb_norm", True, "False"),
        ("scale_logits", True, "False"),
        ("block_group_size", 2, "1"),
        ("clip_qkv", 8.0, "None"),
        ("rope_scaling", {"factor": 2.0}, "None"),
    ],
)
def test_a_switch_that_is_not_computed_is_refused_by_name(
    field: str, value: object, supported: str
) -> None:
    message = refusal(llada_config(**{field: value}))
    assert message.endswith(f": {field} must be {supported}, got {value!r}")


@pytest.mark.parametrize("field", ["block_type", "activation_type", "layer_norm_type", "rope"])
def test_an_absent_switch_means_the_published_default_which_is_refused(field: str) -> None:
    assert f"{field} must be" in refusal(without(field))
    assert refusal(without(field)).endswith("(absent, which means this value)")


@pytest.mark.parametrize(
    "field",
    [
        "d_model",
        "n_heads",
        "n_layers",
        "vocab_size",
        "max_sequence_length",
        "rms_norm_eps",
        "rope_theta",
        "mask_token_id",
        "eos_token_id",
    ],
)
def test_a_missing_field_is_never_guessed(field: str) -> None:
    assert f"{field} is missing; it must be" in refusal(without(field))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_model": 0}, "d_model must be a whole number above 0, got 0"),
        ({"n_layers": "2"}, "n_layers must be a whole number above 0, got '2'"),
        ({"n_layers": True}, "n_layers must be a whole number above 0, got True"),
        ({"rms_norm_eps": -1e-5}, "rms_norm_eps must be a number above 0, got -1e-05"),
        ({"weight_tying": "yes"}, "weight_tying must be true or false, got 'yes'"),
        ({"n_heads": 5}, "d_model must be an even multiple of n_heads"),
        ({"n_heads": 16}, "d_model=48, n_heads=16"),
        ({"n_kv_heads": 3}, "n_heads must be a multiple of n_kv_heads: n_heads=4, n_kv_heads=3"),
        ({"multi_query_attention": True}, "n_kv_heads=4 contradicts multi_query_attention=True"),
        ({"embedding_size": 100}, "embedding_size must be at least vocab_size"),
        ({"mask_token_id": 101}, "mask_token_id must be below the 101 rows of the embedding"),
        ({"mask_token_id": -1}, "mask_token_id must be a token id, 0 or above, got -1"),
        ({"eos_token_id": [1, 200]}, "eos_token_id must be below the 101 rows of the embedding"),
        ({"eos_token_id": []}, "eos_token_id must be a token id, 0 or above, or a list of them"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    assert message in refusal(llada_config(**changes))


def test_all_problems_come_in_one_message() -> None:
    message = refusal(llada_config(alibi=True, n_layers=0, mask_token_id=None))
    assert message == (
        "config.json of this LLaDAModelLM checkpoint is not supported: "
        "alibi must be False, got True; "
        "mask_token_id is missing; it must be a token id, 0 or above; "
        "n_layers must be a whole number above 0, got 0"
    )


@pytest.mark.parametrize(
    ("n_kv_heads", "multi_query", "expected"),
    [(2, None, 2), (None, None, 4), (None, True, 1), (None, False, 4), (1, True, 1), (4, False, 4)],
)
def test_key_value_heads_follow_the_published_rule(
    n_kv_heads: int | None, multi_query: bool | None, expected: int
) -> None:
    config = llada_config(n_kv_heads=n_kv_heads, multi_query_attention=multi_query)
    assert LLaDAConfig.read(config).spec.num_kv_heads == expected


def test_the_feed_forward_size_falls_back_to_the_ratio() -> None:
    config = llada_config(mlp_hidden_size=None, mlp_ratio=3)
    assert LLaDAConfig.read(config).mlp_hidden_size == 3 * 48


@pytest.mark.parametrize(
    ("include_bias", "include_qkv_bias", "bias_for_layer_norm", "expected"),
    [
        (False, True, None, (True, False, False)),
        (True, False, None, (True, True, True)),
        (True, None, False, (True, True, False)),
        (False, False, True, (False, False, True)),
    ],
)
def test_biases_follow_the_published_rule(
    include_bias: bool,
    include_qkv_bias: bool | None,
    bias_for_layer_norm: bool | None,
    expected: tuple[bool, bool, bool],
) -> None:
    config = LLaDAConfig.read(
        llada_config(
            include_bias=include_bias,
            include_qkv_bias=include_qkv_bias,
            bias_for_layer_norm=bias_for_layer_norm,
        )
    )
    assert (config.qkv_bias, config.linear_bias, config.norm_bias) == expected


def test_several_ending_tokens_are_kept_in_order() -> None:
    config = LLaDAConfig.read(llada_config(eos_token_id=[5, 1, 5]))
    assert config.spec.eos_token_ids == (5, 1)


def test_the_vocabulary_of_the_model_is_the_rows_of_its_embedding() -> None:
    assert LLaDAConfig.read(llada_config(vocab_size=90)).spec.vocab_size == 101
    assert LLaDAConfig.read(llada_config(embedding_size=None)).spec.vocab_size == 101


def test_a_number_does_not_pass_for_a_boolean() -> None:
    assert refusal(llada_config(rope=1)).endswith("rope must be True, got 1")


def test_building_a_model_does_not_import_symbolic_algebra() -> None:
    """Random initialisation on ``meta`` would, and takes seconds before any weight is read."""
    script = (
        "import json, sys\n"
        "from starr_engine.models.loading.config_files import ConfigFiles\n"
        "from starr_engine.models.families.llada import LLaDAModel\n"
        "LLaDAModel.from_files(ConfigFiles(config=json.loads(sys.argv[1])))\n"
        "sys.exit('sympy' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script, json.dumps(LLADA_8B)], check=True)
