"""What a published Dream ``config.json`` means, and which of its switches are supported.

Fields are those of Qwen2, plus ``mask_token_id``. The biases are no switches: the published
modelling file gives query, key and value one and the output projection none.
"""

from __future__ import annotations

from typing import Final

from starr_engine.models.decoder_config import (
    DecoderConfig,
    read_decoder,
    read_mask_token_id,
    read_spec,
    turn_end_ids,
)
from starr_engine.models.loading.config_fields import ConfigFields
from starr_engine.models.loading.config_files import ConfigFiles

ARCHITECTURE: Final = "DreamModel"

_ONE_VALUE: Final[tuple[tuple[str, object, object], ...]] = (
    ("model_type", "Dream", None),
    ("hidden_act", "silu", "silu"),
    ("use_sliding_window", False, False),
    ("use_mrope", False, False),
    ("quantization_config", None, None),
)
"""Fields that change the arithmetic: (name, supported value, published default if absent)."""


def read_dream(files: ConfigFiles) -> DecoderConfig:
    """Check and translate the files of a checkpoint.

    Sizes, the rotary base and the norm's epsilon must be written down; absent switches take the
    defaults of the published configuration class. The model fills the rest of its canvas with
    padding, so an output ends at ``pad_token_id`` too, where that is another token than
    ``eos_token_id`` (in DiffuCoder it is), and at the token that ends a turn of a conversation.

    Raises:
        ConfigError: Names every field that is missing or not supported.
    """
    fields = ConfigFields(files.config, ARCHITECTURE)
    for name, supported, default in _ONE_VALUE:
        fields.require(name, supported, default=default)
    vocab_size = fields.positive_int("vocab_size")
    padding = (fields.token_id("pad_token_id"),) if fields.has("pad_token_id") else ()
    fields.check_rows("pad_token_id", padding, vocab_size)
    spec = read_spec(
        fields,
        files,
        architecture=ARCHITECTURE,
        mask_token_id=read_mask_token_id(
            fields, files.tokenizer, "151666 where the authors published the checkpoint"
        ),
        head_dim_is_written=False,
        more_eos_token_ids=(*padding, *turn_end_ids(files.tokenizer, vocab_size)),
        attention_kind="bidirectional",
        logits_shift=True,
    )
    config = read_decoder(fields, spec, qkv_bias=True, output_bias=False, qk_norm=False)
    fields.check()
    return config
