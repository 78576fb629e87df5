"""What a published SDAR ``config.json`` means, and which of its switches are supported.

Fields are those of Qwen3, plus the two that the published training code reads: ``block_size`` and
``mask_token_id``. Checkpoints may lack these two, because the published ``generate.py`` takes the
block length as an argument (4 unless given) and asks the tokenizer for the mask token.
"""

from __future__ import annotations

from typing import Final

from starr_engine.models.decoder_config import (
    DecoderConfig,
    read_decoder,
    read_mask_token_id,
    read_spec,
)
from starr_engine.models.loading.config_fields import ConfigFields
from starr_engine.models.loading.config_files import GENERATION_CONFIG, ConfigFiles

ARCHITECTURE: Final = "SDARForCausalLM"

DEFAULT_BLOCK_LENGTH: Final = 4
"""Of the checkpoints that the authors published first, and of their ``generate.py``."""

_BLOCK_LENGTH_NAMES: Final = ("block_length", "block_size")

_ONE_VALUE: Final[tuple[tuple[str, object, object], ...]] = (
    ("hidden_act", "silu", "silu"),
    ("use_sliding_window", False, False),
    ("quantization_config", None, None),
)
"""Fields that change the arithmetic: (name, supported value, published default if absent)."""


def read_sdar(files: ConfigFiles) -> DecoderConfig:
    """Check and translate the files of a dense checkpoint.

    Sizes, the rotary base and the norm's epsilon must be written down; absent switches take the
    defaults of the published configuration class. The block length is ``block_length`` or
    ``block_size`` in ``config.json``, else in ``generation_config.json``, else 4.

    Raises:
        ConfigError: Names every field that is missing or not supported.
    """
    fields = ConfigFields(files.config, ARCHITECTURE)
    fields.require("model_type", "sdar", default=None)
    config = read_sdar_decoder(fields, files, ARCHITECTURE, head_dim_is_written=True)
    fields.check()
    return config


def read_sdar_decoder(
    fields: ConfigFields,
    files: ConfigFiles,
    architecture: str,
    *,
    head_dim_is_written: bool,
    has_dense_layers: bool = True,
) -> DecoderConfig:
    """What dense checkpoints and mixtures of experts share; problems are noted in ``fields``.

    Args:
        fields: Of ``config.json``.
        files: All of the checkpoint's files.
        architecture: As registered.
        head_dim_is_written: See :func:`~starr_engine.models.decoder_config.read_spec`.
        has_dense_layers: See :func:`~starr_engine.models.decoder_config.read_decoder`.
    """
    for name, supported, default in _ONE_VALUE:
        fields.require(name, supported, default=default)
    generation = fields.of_other_file(GENERATION_CONFIG, files.generation)
    block_length = _block_length(fields) or _block_length(generation)
    has_bias = fields.flag("attention_bias", default=False)
    spec = read_spec(
        fields,
        files,
        architecture=architecture,
        mask_token_id=read_mask_token_id(
            fields, files.tokenizer, "151669 where the authors published the checkpoint"
        ),
        head_dim_is_written=head_dim_is_written,
        attention_kind="block_causal",
        block_length=block_length or DEFAULT_BLOCK_LENGTH,
        block_length_is_assumed=block_length is None,
    )
    return read_decoder(
        fields,
        spec,
        qkv_bias=has_bias,
        output_bias=has_bias,
        qk_norm=True,
        has_dense_layers=has_dense_layers,
    )


def _block_length(fields: ConfigFields) -> int | None:
    """The block length that a file names; None if it names none."""
    found = {name: fields.positive_int(name) for name in _BLOCK_LENGTH_NAMES if fields.has(name)}
    if len(set(found.values())) > 1:
        named = ", ".join(f"{name}={value}" for name, value in found.items())
        fields.problem(f"{' and '.join(found)} must be equal, they name one thing: {named}")
    return next(iter(found.values()), None)
