"""The configuration that most published decoders share: Llama's, Qwen's and their descendants'."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from starr_engine.models.base import ModelSpec
from starr_engine.models.loading.config_fields import (
    MOST_LAYERS,
    MOST_POSITIONS,
    ConfigFields,
)
from starr_engine.models.loading.config_files import (
    GENERATION_CONFIG,
    TOKENIZER_CONFIG,
    ConfigFiles,
)

TURN_END: Final = "<|im_end|>"
"""What ends every turn in the chat format that Qwen's descendants use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """The arithmetic of one checkpoint, as far as families share it."""

    spec: ModelSpec
    intermediate_size: int
    """Inner size of a dense feed-forward part."""

    rms_norm_eps: float
    rope_theta: float
    tied_head: bool
    """Whether the embedding serves as the output head."""

    qkv_bias: bool
    """Whether the query, key and value projections have one."""

    output_bias: bool
    """Whether attention's output projection has one."""

    qk_norm: bool
    """Whether every query and key is normalised, head by head, before it is turned."""


def read_decoder(
    fields: ConfigFields,
    spec: ModelSpec,
    *,
    qkv_bias: bool,
    output_bias: bool,
    qk_norm: bool,
    has_dense_layers: bool = True,
) -> DecoderConfig:
    """The usual fields around a spec; problems are noted in ``fields``.

    Args:
        fields: Of ``config.json``.
        spec: See :func:`read_spec`.
        qkv_bias: See :class:`DecoderConfig`, like the next two.
        output_bias: As above.
        qk_norm: As above.
        has_dense_layers: Whether ``intermediate_size`` must be there.
    """
    needs_size = has_dense_layers or fields.has("intermediate_size")
    return DecoderConfig(
        spec=spec,
        intermediate_size=fields.positive_int("intermediate_size") if needs_size else 0,
        rms_norm_eps=fields.positive_number("rms_norm_eps"),
        rope_theta=read_rope_theta(fields),
        tied_head=fields.flag("tie_word_embeddings", default=False),
        qkv_bias=qkv_bias,
        output_bias=output_bias,
        qk_norm=qk_norm,
    )


def read_rope_theta(fields: ConfigFields) -> float:
    """Base of the plain rotary positions, wherever the file has it; a problem for any other kind.

    Files of transformers 5 have it in ``rope_parameters``, older ones at the top.
    """
    fields.require("rope_scaling", None, default=None)
    written = fields.optional("rope_parameters", None)
    if written is None:
        return fields.positive_number("rope_theta")
    if not isinstance(written, Mapping):
        fields.problem(f"rope_parameters must be an object, got {written!r}")
        return 1.0
    rope = fields.of_other_file("rope_parameters", written)
    rope.require("rope_type", "default", default="default")
    rope.require("partial_rotary_factor", 1.0, default=1.0)
    return rope.positive_number("rope_theta")


def read_spec(
    fields: ConfigFields,
    files: ConfigFiles,
    *,
    architecture: str,
    mask_token_id: int,
    head_dim_is_written: bool,
    more_eos_token_ids: tuple[int, ...] = (),
    **family: Any,
) -> ModelSpec:
    """Sizes and ending tokens under their usual names; problems are noted in ``fields``.

    Args:
        fields: Of ``config.json``.
        files: All of the checkpoint's files.
        architecture: As registered.
        mask_token_id: See :func:`read_mask_token_id`.
        head_dim_is_written: Whether ``head_dim`` must be there; else an absent one is
            ``hidden_size / num_attention_heads``.
        more_eos_token_ids: End an output too.
        **family: The other fields of the spec: attention kind, block length, shift.
    """
    generation = fields.of_other_file(GENERATION_CONFIG, files.generation)
    num_heads = fields.positive_int("num_attention_heads")
    num_kv_heads = fields.positive_int("num_key_value_heads")
    if num_heads % num_kv_heads:
        fields.problem(
            "num_attention_heads must be a multiple of num_key_value_heads: "
            f"num_attention_heads={num_heads}, num_key_value_heads={num_kv_heads}"
        )
    hidden_size = fields.positive_int("hidden_size")
    vocab_size = fields.positive_int("vocab_size")
    # Either file may hold the ending tokens; the loader adds those of the other one.
    in_config = fields.has("eos_token_id") or not generation.has("eos_token_id")
    eos_token_ids = (fields if in_config else generation).token_ids("eos_token_id")
    eos_token_ids = tuple(dict.fromkeys((*eos_token_ids, *more_eos_token_ids)))
    fields.check_rows("mask_token_id", (mask_token_id,), vocab_size)
    fields.check_rows("eos_token_id", eos_token_ids, vocab_size)
    return ModelSpec(
        architecture=architecture,
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_layers=fields.positive_int("num_hidden_layers", at_most=MOST_LAYERS),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=_head_dim(fields, hidden_size, num_heads, head_dim_is_written),
        max_model_len=fields.positive_int("max_position_embeddings", at_most=MOST_POSITIONS),
        mask_token_id=mask_token_id,
        eos_token_ids=eos_token_ids,
        **family,
    )


def _head_dim(fields: ConfigFields, hidden_size: int, num_heads: int, is_written: bool) -> int:
    if is_written or fields.has("head_dim"):
        head_dim = fields.positive_int("head_dim")
        is_known = fields.has("head_dim")  # an absent one is reported as such
    elif hidden_size % num_heads:
        fields.problem(
            "hidden_size must be a multiple of num_attention_heads where there is no head_dim: "
            f"hidden_size={hidden_size}, num_attention_heads={num_heads}"
        )
        return 1
    else:
        head_dim, is_known = hidden_size // num_heads, True
    if head_dim % 2 and is_known:
        fields.problem(
            f"head_dim must be even, because rotary positions pair components, got {head_dim}"
        )
    return head_dim


def read_mask_token_id(fields: ConfigFields, tokenizer: Mapping[str, Any], published: str) -> int:
    """``mask_token_id`` of ``config.json``, else the id of the tokenizer's mask token.

    Args:
        fields: Of ``config.json``; a problem is noted if neither says it.
        tokenizer: Content of ``tokenizer_config.json``.
        published: What the authors' own checkpoints have, for the message.
    """
    if fields.has("mask_token_id"):
        return fields.token_id("mask_token_id")
    found = added_token_ids(tokenizer, _text(tokenizer.get("mask_token")))
    if found:
        return found[0]
    fields.problem(
        f"mask_token_id is missing, and {TOKENIZER_CONFIG} names no mask_token that is among its "
        f"added_tokens_decoder; write the id of the mask token ({published}) into config.json"
    )
    return 0


def turn_end_ids(tokenizer: Mapping[str, Any], vocab_size: int) -> tuple[int, ...]:
    """The id of the token that ends a turn of a conversation; empty if there is none.

    Some checkpoints name it nowhere else: their ``eos_token_id`` is the end of a whole text.

    Args:
        tokenizer: Content of ``tokenizer_config.json``.
        vocab_size: Rows of the embedding; an id without a row is never generated.
    """
    return tuple(token for token in added_token_ids(tokenizer, TURN_END) if token < vocab_size)


def added_token_ids(tokenizer: Mapping[str, Any], text: str | None) -> list[int]:
    """Ids under which ``tokenizer_config.json`` lists a token of this text, mostly one."""
    added = tokenizer.get("added_tokens_decoder")
    if text is None or not isinstance(added, Mapping):
        return []
    return [int(key) for key, token in added.items() if _text(token) == text and key.isdecimal()]


def _text(token: object) -> str | None:
    """A token's text, however it is written: as such, or with flags around it."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) else None
