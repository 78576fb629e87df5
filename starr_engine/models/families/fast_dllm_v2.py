"""Fast-dLLM v2: Qwen2.5 with a block-causal mask, decoded in sub-blocks.

Its head still names the next token: the logits of a position are those of the row in front of it.

Source:
    "Fast-dLLM v2: Efficient Block-Diffusion LLM", arXiv 2509.26328; names, mask, shift and
    generation as in the modelling file of Fast_dLLM_v2_7B.
"""

from __future__ import annotations

from typing import ClassVar, Final

import torch

from starr_engine.models.base import PublishedDecoding
from starr_engine.models.decoder import DecoderModel
from starr_engine.models.decoder_config import (
    DecoderConfig,
    added_token_ids,
    read_decoder,
    read_mask_token_id,
    read_spec,
)
from starr_engine.models.loading.config_fields import ConfigFields
from starr_engine.models.loading.config_files import ConfigFiles

ARCHITECTURE: Final = "Fast_dLLM_QwenForCausalLM"

SUB_BLOCK_LENGTH: Final = 8
"""``small_block_size`` of the published ``generate``; no file of a checkpoint says it."""

MASK_TOKEN: Final = "|<MASK>|"
"""Added to the tokenizer of Qwen2.5, as its last token."""

_ONE_VALUE: Final[tuple[tuple[str, object, object], ...]] = (
    ("hidden_act", "silu", "silu"),
    ("use_sliding_window", False, False),
    ("quantization_config", None, None),
)
"""Fields that change the arithmetic: (name, supported value, published default if absent)."""


class FastDLLMv2Model(DecoderModel):
    """Fast_dLLM_v2_1.5B and 7B, and models of their format."""

    architectures: ClassVar[tuple[str, ...]] = (ARCHITECTURE,)

    published_decoding: ClassVar[PublishedDecoding | None] = PublishedDecoding(
        params={
            "remasking": "threshold",
            "remasking_args": {"threshold": 0.95, "first_alone": True},
        },
        source="batch_sample of Fast-dLLM v2",
    )

    @classmethod
    def from_files(cls, files: ConfigFiles) -> FastDLLMv2Model:
        """See the base class; parameters are on the ``meta`` device."""
        config = read_fast_dllm_v2(files)
        with torch.device("meta"):
            return cls(config)


def read_fast_dllm_v2(files: ConfigFiles) -> DecoderConfig:
    """Check and translate the files of a checkpoint.

    Fields are those of Qwen2, plus ``bd_size``, the block length. The mask token is
    ``mask_token_id``, else the tokenizer's mask token, else its token ``|<MASK>|``. The biases are
    no switches: query, key and value have one, the output projection has none.

    Raises:
        ConfigError: Names every field that is missing or not supported.
    """
    fields = ConfigFields(files.config, ARCHITECTURE)
    for name, supported, default in _ONE_VALUE:
        fields.require(name, supported, default=default)
    kinds = fields.optional("layer_types", [])
    if not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds):
        fields.problem(f"layer_types must hold full_attention alone, got {kinds!r}")
    block_length = fields.positive_int("bd_size")
    named = added_token_ids(files.tokenizer, MASK_TOKEN)
    asks_elsewhere = fields.has("mask_token_id") or files.tokenizer.get("mask_token")
    mask_token_id = (
        named[0]
        if named and not asks_elsewhere
        else read_mask_token_id(
            fields, files.tokenizer, "151665 where the authors published the checkpoint"
        )
    )
    spec = read_spec(
        fields,
        files,
        architecture=ARCHITECTURE,
        mask_token_id=mask_token_id,
        head_dim_is_written=False,
        attention_kind="block_causal",
        block_length=block_length,
        sub_block_length=None if block_length % SUB_BLOCK_LENGTH else SUB_BLOCK_LENGTH,
        logits_shift=True,
    )
    config = read_decoder(fields, spec, qkv_bias=True, output_bias=False, qk_norm=False)
    fields.check()
    return config
