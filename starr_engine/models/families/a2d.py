"""A2D: Qwen2, Qwen3 and Llama without their causal mask, under the names they had before.

The small checkpoints of the dLLM project are of two kinds with one configuration: MDLM sees in both
directions, BD3LM has a block-causal mask. No file says which; bidirectional is what the modelling
files do by themselves, and ``mask_block_length`` makes a model block-causal.

Source:
    ZHZisZZ/dllm, ``pipelines/a2d``: Qwen3-0.6B-diffusion-mdlm-v0.1 and -bd3lm-v0.1, and what its
    ``convert.py`` makes of Qwen2.5-0.5B.
"""

from __future__ import annotations

from typing import ClassVar, Final

import torch

from starr_engine.models.base import PublishedDecoding
from starr_engine.models.decoder import DecoderModel
from starr_engine.models.decoder_config import (
    DecoderConfig,
    read_decoder,
    read_mask_token_id,
    read_spec,
    turn_end_ids,
)
from starr_engine.models.loading.config_fields import ConfigFields
from starr_engine.models.loading.config_files import ConfigFiles

QWEN2: Final = "A2DQwen2LMHeadModel"
QWEN3: Final = "A2DQwen3LMHeadModel"
LLAMA: Final = "A2DLlamaLMHeadModel"

_ONE_VALUE: Final[tuple[tuple[str, object, object], ...]] = (
    ("hidden_act", "silu", "silu"),
    ("use_sliding_window", False, False),
    ("mlp_bias", False, False),
    ("quantization_config", None, None),
)
"""Fields that change the arithmetic: (name, supported value, published default if absent)."""


class A2DModel(DecoderModel):
    """MDLM and BD3LM checkpoints of the dLLM project."""

    architectures: ClassVar[tuple[str, ...]] = (QWEN2, QWEN3, LLAMA)

    published_decoding: ClassVar[PublishedDecoding | None] = PublishedDecoding(
        params={"remasking": "low_confidence", "block_length": 32},
        source="samplers of ZHZisZZ/dllm: as many steps as tokens",
    )

    @classmethod
    def from_files(cls, files: ConfigFiles) -> A2DModel:
        """See the base class; parameters are on the ``meta`` device."""
        config = read_a2d(files)
        with torch.device("meta"):
            return cls(config)


def read_a2d(files: ConfigFiles) -> DecoderConfig:
    """Check and translate the files of a checkpoint.

    An output ends at ``eos_token_id`` and at the token that ends a turn of a conversation.

    Raises:
        ConfigError: Names every field that is missing or not supported.
    """
    architecture = next(name for name in files.config["architectures"] if name in _BIASES)
    fields = ConfigFields(files.config, architecture)
    for name, supported, default in _ONE_VALUE:
        fields.require(name, supported, default=default)
    has_bias = fields.flag("attention_bias", default=False)
    spec = read_spec(
        fields,
        files,
        architecture=architecture,
        mask_token_id=read_mask_token_id(fields, files.tokenizer, "the tokenizer's mask token"),
        head_dim_is_written=architecture == QWEN3,
        more_eos_token_ids=turn_end_ids(files.tokenizer, fields.positive_int("vocab_size")),
        attention_kind="bidirectional",
        may_be_block_causal=True,
    )
    config = read_decoder(
        fields,
        spec,
        qkv_bias=has_bias or _BIASES[architecture],
        output_bias=has_bias,
        qk_norm=architecture == QWEN3,
    )
    fields.check()
    return config


_BIASES: Final = {QWEN2: True, QWEN3: False, LLAMA: False}
"""Whether query, key and value have a bias whatever the configuration says."""
