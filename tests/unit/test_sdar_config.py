"""Every switch of an SDAR configuration is computed as published or refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from starr_engine.errors import ConfigError
from starr_engine.models.base import ModelSpec
from starr_engine.models.decoder_config import DecoderConfig
from starr_engine.models.families.sdar import SDARModel
from starr_engine.models.families.sdar_config import read_sdar
from starr_engine.models.loading.config_files import ConfigFiles
from tests.helpers.sdar_checkpoints import sdar_config

# What SDAR-1.7B-Chat writes, as far as it bears on the arithmetic.
SDAR_1_7B = sdar_config(
    hidden_size=2048,
    intermediate_size=6144,
    num_hidden_layers=28,
    num_attention_heads=16,
    num_key_value_heads=8,
    head_dim=128,
    max_position_embeddings=32768,
    vocab_size=151936,
    block_size=4,
    mask_token_id=151669,
    bos_token_id=151643,
    eos_token_id=151643,
)


def read(config: dict[str, Any], **files: dict[str, Any]) -> DecoderConfig:
    """The configuration, with the content of the files beside it."""
    return read_sdar(ConfigFiles(config=config, **files))


def refusal(config: dict[str, Any], **files: dict[str, Any]) -> str:
    """Message of the refusal of ``config``."""
    with pytest.raises(ConfigError) as caught:
        read(config, **files)
    return str(caught.value)


def without(*names: str) -> dict[str, Any]:
    """A valid configuration that lacks some fields."""
    return {key: value for key, value in sdar_config().items() if key not in names}


def test_sdar_1_7b_is_understood() -> None:
    assert read(SDAR_1_7B) == DecoderConfig(
        spec=ModelSpec(
            architecture="SDARForCausalLM",
            vocab_size=151936,
            hidden_size=2048,
            num_layers=28,
            num_heads=16,
            num_kv_heads=8,
            head_dim=128,
            max_model_len=32768,
            mask_token_id=151669,
            eos_token_ids=(151643,),
            attention_kind="block_causal",
            block_length=4,
        ),
        intermediate_size=6144,
        rms_norm_eps=1e-6,
        rope_theta=1e6,
        tied_head=False,
        qkv_bias=False,
        output_bias=False,
        qk_norm=True,
    )


def test_sdar_1_7b_has_its_parameters_and_takes_no_memory_before_loading() -> None:
    parameters = list(SDARModel.from_files(ConfigFiles(config=SDAR_1_7B)).parameters())
    # Embedding and head; in each layer queries and output, keys and values, the feed-forward part,
    # two norms of rows and two of heads; the last norm.
    layer = 2 * 2048 * 2048 + 2 * 1024 * 2048 + 3 * 2048 * 6144 + 2 * 2048 + 2 * 128
    assert sum(p.numel() for p in parameters) == 2 * 151936 * 2048 + 28 * layer + 2048
    assert {parameter.device.type for parameter in parameters} == {"meta"}


@pytest.mark.parametrize(
    ("field", "value", "supported"),
    [
        ("model_type", "qwen3", "'sdar'"),
        ("model_type", "sdar_moe", "'sdar'"),
        ("hidden_act", "gelu", "'silu'"),
        ("use_sliding_window", True, "False"),
        ("rope_scaling", {"rope_type": "yarn", "factor": 4.0}, "None"),
        ("quantization_config", {"quant_method": "awq"}, "None"),
    ],
)
def test_a_switch_that_is_not_computed_is_refused_by_name(
    field: str, value: object, supported: str
) -> None:
    message = refusal(sdar_config(**{field: value}))
    assert message.endswith(f": {field} must be {supported}, got {value!r}")


def test_absent_switches_take_the_published_defaults() -> None:
    names = ("hidden_act", "use_sliding_window", "sliding_window", "rope_scaling")
    bare = read(without(*names, "tie_word_embeddings", "attention_bias"))
    assert bare == read(sdar_config())


@pytest.mark.parametrize("window", [None, 4096])
def test_a_window_that_is_not_used_changes_nothing(window: int | None) -> None:
    """Published configurations keep the number while the switch is off."""
    assert read(sdar_config(sliding_window=window)) == read(sdar_config())


@pytest.mark.parametrize(
    "field",
    [
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "vocab_size",
        "max_position_embeddings",
        "rms_norm_eps",
        "rope_theta",
        "eos_token_id",
    ],
)
def test_a_missing_field_is_never_guessed(field: str) -> None:
    assert f"{field} is missing; it must be" in refusal(without(field))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 0}, "hidden_size must be a whole number above 0, got 0"),
        ({"num_hidden_layers": "2"}, "num_hidden_layers must be a whole number above 0, got '2'"),
        ({"num_hidden_layers": True}, "num_hidden_layers must be a whole number above 0, got True"),
        ({"intermediate_size": 1.5}, "intermediate_size must be a whole number above 0, got 1.5"),
        ({"rms_norm_eps": -1e-6}, "rms_norm_eps must be a number above 0, got -1e-06"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings must be true or false, got 'no'"),
        ({"attention_bias": 1}, "attention_bias must be true or false, got 1"),
        ({"head_dim": 13}, "head_dim must be even, because rotary positions pair components"),
        (
            {"num_key_value_heads": 3},
            "num_attention_heads must be a multiple of num_key_value_heads: "
            "num_attention_heads=4, num_key_value_heads=3",
        ),
        ({"mask_token_id": 101}, "mask_token_id must be below the 101 rows of the embedding"),
        ({"mask_token_id": -1}, "mask_token_id must be a token id, 0 or above, got -1"),
        ({"eos_token_id": [1, 200]}, "eos_token_id must be below the 101 rows of the embedding"),
        ({"eos_token_id": []}, "eos_token_id must be a token id, 0 or above, or a list of them"),
        ({"block_size": 0}, "block_size must be a whole number above 0, got 0"),
        ({"block_size": "4"}, "block_size must be a whole number above 0, got '4'"),
        ({"block_length": 4.0}, "block_length must be a whole number above 0, got 4.0"),
        (
            {"block_length": 16},
            "block_length and block_size must be equal, they name one thing: "
            "block_length=16, block_size=8",
        ),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    assert message in refusal(sdar_config(**changes))


def test_the_model_type_must_be_written_down() -> None:
    assert "model_type must be 'sdar', got None (absent" in refusal(without("model_type"))


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        ({"block_size": 16}, {}, 16),
        ({"block_length": 16}, {}, 16),
        ({"block_length": 16, "block_size": 16}, {}, 16),
        ({"block_size": 16}, {"block_length": 32}, 16),
        ({}, {"block_length": 32}, 32),
        ({"block_size": None}, {"block_size": 32}, 32),
        ({}, {}, 4),
    ],
)
def test_the_block_length_comes_from_the_first_file_that_names_it_or_is_four(
    config: dict[str, Any], generation: dict[str, Any], expected: int
) -> None:
    found = read(without("block_size") | config, generation=generation)
    assert found.spec.block_length == expected


def test_problems_of_the_other_file_name_it_and_come_in_the_same_message() -> None:
    config = {**without("block_size"), "num_hidden_layers": 0}
    assert refusal(config, generation={"block_length": -1}).endswith(
        ": generation_config.json: block_length must be a whole number above 0, got -1; "
        "num_hidden_layers must be a whole number above 0, got 0"
    )


@pytest.mark.parametrize(
    ("in_config", "in_generation", "expected"),
    [(1, None, (1,)), ([5, 1, 5], None, (5, 1)), (None, [7, 9], (7, 9)), (1, 7, (1,))],
)
def test_ending_tokens_come_from_the_config_or_else_the_generation_config(
    in_config: object, in_generation: object, expected: tuple[int, ...]
) -> None:
    found = read(sdar_config(eos_token_id=in_config), generation={"eos_token_id": in_generation})
    assert found.spec.eos_token_ids == expected


@pytest.mark.parametrize("mask_token", ["<|MASK|>", {"content": "<|MASK|>", "special": True}])
def test_a_mask_token_that_the_config_lacks_is_the_tokenizers(mask_token: object) -> None:
    tokenizer = {
        "mask_token": mask_token,
        "added_tokens_decoder": {"1": {"content": "<eos>"}, "90": {"content": "<|MASK|>"}},
    }
    assert read(without("mask_token_id"), tokenizer=tokenizer).spec.mask_token_id == 90
    assert read(sdar_config(), tokenizer=tokenizer).spec.mask_token_id == 3


@pytest.mark.parametrize(
    "tokenizer",
    [
        {},
        {"mask_token": None, "added_tokens_decoder": {"90": {}}},
        {"mask_token": "<|MASK|>"},
        {"mask_token": "<|MASK|>", "added_tokens_decoder": {"90": {"content": "<mask>"}}},
        {"mask_token": "<|MASK|>", "added_tokens_decoder": {"last": "<|MASK|>"}},
        {"mask_token": "<|MASK|>", "added_tokens_decoder": ["<|MASK|>"]},
    ],
)
def test_a_mask_token_that_no_file_names_is_never_guessed(tokenizer: dict[str, Any]) -> None:
    message = refusal(without("mask_token_id"), tokenizer=tokenizer)
    assert ": mask_token_id is missing, and tokenizer_config.json names no mask_token" in message


def test_a_tokenizers_mask_token_outside_the_vocabulary_is_refused() -> None:
    tokenizer = {"mask_token": "M", "added_tokens_decoder": {"101": {"content": "M"}}}
    message = refusal(without("mask_token_id"), tokenizer=tokenizer)
    assert message.endswith("mask_token_id must be below the 101 rows of the embedding, got 101")


def test_all_problems_come_in_one_message() -> None:
    message = refusal(
        sdar_config(hidden_act="gelu", num_hidden_layers=0, eos_token_id=None, rope_theta=0)
    )
    assert message == (
        "config.json of this SDARForCausalLM checkpoint is not supported: "
        "hidden_act must be 'silu', got 'gelu'; "
        "eos_token_id is missing; it must be a token id, 0 or above, or a list of them; "
        "num_hidden_layers must be a whole number above 0, got 0; "
        "rope_theta must be a number above 0, got 0"
    )


def test_the_rotary_base_may_stand_where_transformers_5_writes_it() -> None:
    moved = without("rope_theta") | {"rope_parameters": {"rope_type": "default", "rope_theta": 7e5}}
    assert read(moved).rope_theta == 7e5
    for changes, problem in (
        ({"rope_type": "yarn", "factor": 4.0}, "rope_parameters: rope_type must be 'default', got"),
        ({"rope_theta": None}, "rope_parameters: rope_theta is missing"),
    ):
        written = {"rope_type": "default", "rope_theta": 7e5} | changes
        assert problem in refusal(sdar_config(rope_parameters=written))
    assert "rope_parameters must be an object" in refusal(sdar_config(rope_parameters=4))
