"""Every switch of a Dream configuration is computed as published or refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from starr_engine.errors import ConfigError
from starr_engine.models.base import ModelSpec
from starr_engine.models.decoder_config import DecoderConfig
from starr_engine.models.families.dream import DreamModel
from starr_engine.models.families.dream_config import read_dream
from starr_engine.models.loading.config_files import ConfigFiles
from tests.helpers.dream_checkpoints import dream_config

# What Dream-v0-Instruct-7B writes, as far as it bears on the arithmetic.
DREAM_7B = dream_config(
    hidden_size=3584,
    intermediate_size=18944,
    num_hidden_layers=28,
    num_attention_heads=28,
    num_key_value_heads=4,
    max_position_embeddings=131072,
    vocab_size=152064,
    mask_token_id=151666,
    bos_token_id=151643,
    eos_token_id=151643,
    pad_token_id=151643,
)
TOKENIZER = {
    "mask_token": "<|mask|>",
    "added_tokens_decoder": {
        "151643": {"content": "<|endoftext|>"},
        "151645": {"content": "<|im_end|>"},
        "151666": {"content": "<|mask|>"},
    },
}


def read(config: dict[str, Any], **files: dict[str, Any]) -> DecoderConfig:
    return read_dream(ConfigFiles(config=config, **files))


def refusal(config: dict[str, Any], **files: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        read(config, **files)
    return str(caught.value)


def without(*names: str) -> dict[str, Any]:
    return {key: value for key, value in dream_config().items() if key not in names}


def test_dream_7b_is_understood() -> None:
    assert read(DREAM_7B, tokenizer=TOKENIZER) == DecoderConfig(
        spec=ModelSpec(
            architecture="DreamModel",
            vocab_size=152064,
            hidden_size=3584,
            num_layers=28,
            num_heads=28,
            num_kv_heads=4,
            head_dim=128,
            max_model_len=131072,
            mask_token_id=151666,
            eos_token_ids=(151643, 151645),
            attention_kind="bidirectional",
            logits_shift=True,
        ),
        intermediate_size=18944,
        rms_norm_eps=1e-6,
        rope_theta=1e6,
        tied_head=False,
        qkv_bias=True,
        output_bias=False,
        qk_norm=False,
    )


def test_dream_7b_has_the_published_bytes_and_takes_no_memory_before_loading() -> None:
    parameters = list(DreamModel.from_files(ConfigFiles(config=DREAM_7B)).parameters())
    # total_size of the published model.safetensors.index.json, in bfloat16.
    assert sum(2 * p.numel() for p in parameters) == 15231233024
    assert {parameter.device.type for parameter in parameters} == {"meta"}


@pytest.mark.parametrize(
    ("field", "value", "supported"),
    [
        ("model_type", "qwen2", "'Dream'"),
        ("hidden_act", "gelu", "'silu'"),
        ("use_sliding_window", True, "False"),
        ("use_mrope", True, "False"),
        ("rope_scaling", {"rope_type": "yarn", "factor": 4.0}, "None"),
        ("quantization_config", {"quant_method": "awq"}, "None"),
    ],
)
def test_a_switch_that_is_not_computed_is_refused_by_name(
    field: str, value: object, supported: str
) -> None:
    message = refusal(dream_config(**{field: value}))
    assert message.endswith(f": {field} must be {supported}, got {value!r}")


def test_absent_switches_take_the_published_defaults() -> None:
    names = ("hidden_act", "use_sliding_window", "use_mrope", "sliding_window", "rope_scaling")
    assert read(without(*names, "tie_word_embeddings")) == read(dream_config())


def test_what_is_missing_or_makes_no_sense_comes_in_one_message() -> None:
    message = refusal(
        without("model_type", "rope_theta", "mask_token_id")
        | {"hidden_size": 50, "pad_token_id": 101, "num_key_value_heads": 3}
    )
    for part in (
        "model_type must be 'Dream', got None (absent",
        "rope_theta is missing; it must be a number above 0",
        "mask_token_id is missing, and tokenizer_config.json names no mask_token",
        "(151666 where the authors published the checkpoint)",
        "hidden_size must be a multiple of num_attention_heads where there is no head_dim: "
        "hidden_size=50, num_attention_heads=4",
        "pad_token_id must be below the 101 rows of the embedding, got 101",
        "num_attention_heads must be a multiple of num_key_value_heads",
    ):
        assert part in message


def test_a_mask_token_that_the_config_lacks_is_the_tokenizers() -> None:
    config = {key: value for key, value in DREAM_7B.items() if key != "mask_token_id"}
    assert read(config, tokenizer=TOKENIZER).spec.mask_token_id == 151666


def test_an_output_ends_at_the_padding_and_at_the_end_of_a_turn_too() -> None:
    # DiffuCoder pads with <|dlm_pad|>, id 151667.
    config = DREAM_7B | {"pad_token_id": 151667}
    assert read(config, tokenizer=TOKENIZER).spec.eos_token_ids == (151643, 151667, 151645)
    assert read(DREAM_7B | {"pad_token_id": None}).spec.eos_token_ids == (151643,)
    beyond = {"added_tokens_decoder": {"152064": {"content": "<|im_end|>"}}}
    assert read(DREAM_7B, tokenizer=beyond).spec.eos_token_ids == (151643,)
