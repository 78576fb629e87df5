"""What a published SDAR ``config.json`` means, and which of its switches are supported.

Fields are those of Qwen3, plus the two that the published training code reads: ``block_size`` and
``mask_token_id``. Checkpoints may lack these two, because the published ``generate.py`` takes the
block length as an argument (4 unless given) and asks the tokenizer for the mask token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from starr_engine.models.base import ModelSpec
from starr_engine.models.loading.config_fields import ConfigFields
from starr_engine.models.loading.config_files import (
    GENERATION_CONFIG,
    TOKENIZER_CONFIG,
    ConfigFiles,
)

ARCHITECTURE: Final = "SDARForCausalLM"

DEFAULT_BLOCK_LENGTH: Final = 4
"""Of the checkpoints that the authors published first, and of their ``generate.py``."""

_BLOCK_LENGTH_NAMES: Final = ("block_length", "block_size")

_ONE_VALUE: Final[tuple[tuple[str, object, object], ...]] = (
    ("model_type", "sdar", None),
    ("hidden_act", "silu", "silu"),
    ("use_sliding_window", False, False),
    ("rope_scaling", None, None),
    ("rope_parameters", None, None),
    ("quantization_config", None, None),
)
"""Fields that change the arithmetic: (name, supported value, published default if absent)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SDARConfig:
    """The arithmetic of one checkpoint."""

    spec: ModelSpec
    intermediate_size: int
    rms_norm_eps: float
    rope_theta: float
    tied_head: bool
    """Whether the embedding serves as the output head."""

    attention_bias: bool
    """Of the query, key, value and output projections."""

    @classmethod
    def read(cls, files: ConfigFiles) -> SDARConfig:
        """Check and translate the files of a checkpoint.

        Sizes, the rotary base and the norm's epsilon must be written down; absent switches take
        the defaults of the published configuration class. The block length is ``block_length`` or
        ``block_size`` in ``config.json``, else in ``generation_config.json``, else 4.

        Raises:
            ConfigError: Names every field that is missing or not supported.
        """
        fields = ConfigFields(files.config, ARCHITECTURE)
        for name, supported, default in _ONE_VALUE:
            fields.require(name, supported, default=default)
        parsed = cls(
            spec=_spec(fields, files),
            intermediate_size=fields.positive_int("intermediate_size"),
            rms_norm_eps=fields.positive_number("rms_norm_eps"),
            rope_theta=fields.positive_number("rope_theta"),
            tied_head=fields.flag("tie_word_embeddings", default=False),
            attention_bias=fields.flag("attention_bias", default=False),
        )
        fields.check()
        return parsed


def _spec(fields: ConfigFields, files: ConfigFiles) -> ModelSpec:
    generation = fields.of_other_file(GENERATION_CONFIG, files.generation)
    num_heads = fields.positive_int("num_attention_heads")
    num_kv_heads = fields.positive_int("num_key_value_heads")
    if num_heads % num_kv_heads:
        fields.problem(
            "num_attention_heads must be a multiple of num_key_value_heads: "
            f"num_attention_heads={num_heads}, num_key_value_heads={num_kv_heads}"
        )
    head_dim = fields.positive_int("head_dim")
    if head_dim % 2 and fields.has("head_dim"):  # an absent one is reported as such
        fields.problem(
            f"head_dim must be even, because rotary positions pair components, got {head_dim}"
        )
    vocab_size = fields.positive_int("vocab_size")
    mask_token_id = _mask_token_id(fields, files.tokenizer)
    # Either file may hold the ending tokens; the loader adds those of the other one.
    in_config = fields.has("eos_token_id") or not generation.has("eos_token_id")
    eos_token_ids = (fields if in_config else generation).token_ids("eos_token_id")
    fields.check_rows("mask_token_id", (mask_token_id,), vocab_size)
    fields.check_rows("eos_token_id", eos_token_ids, vocab_size)
    return ModelSpec(
        architecture=ARCHITECTURE,
        vocab_size=vocab_size,
        hidden_size=fields.positive_int("hidden_size"),
        num_layers=fields.positive_int("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        max_model_len=fields.positive_int("max_position_embeddings"),
        mask_token_id=mask_token_id,
        eos_token_ids=eos_token_ids,
        attention_kind="block_causal",
        block_length=(named := _block_length(fields) or _block_length(generation))
        or DEFAULT_BLOCK_LENGTH,
        block_length_is_assumed=named is None,
    )


def _block_length(fields: ConfigFields) -> int | None:
    """The block length that a file names; None if it names none."""
    found = {name: fields.positive_int(name) for name in _BLOCK_LENGTH_NAMES if fields.has(name)}
    if len(set(found.values())) > 1:
        named = ", ".join(f"{name}={value}" for name, value in found.items())
        fields.problem(f"{' and '.join(found)} must be equal, they name one thing: {named}")
    return next(iter(found.values()), None)


def _mask_token_id(fields: ConfigFields, tokenizer: Mapping[str, Any]) -> int:
    """``mask_token_id``, else the id of the tokenizer's mask token."""
    if fields.has("mask_token_id"):
        return fields.token_id("mask_token_id")
    mask_token = _text(tokenizer.get("mask_token"))
    added = tokenizer.get("added_tokens_decoder")
    for token_id, token in added.items() if isinstance(added, Mapping) else ():
        if mask_token is not None and _text(token) == mask_token and token_id.isdecimal():
            return int(token_id)
    fields.problem(
        f"mask_token_id is missing, and {TOKENIZER_CONFIG} names no mask_token that is among its "
        "added_tokens_decoder; write the id of the mask token (151669 where the authors published "
        "the checkpoint) into config.json"
    )
    return 0


def _text(token: object) -> str | None:
    """A token's text, however it is written: as such, or with flags around it."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) else None
