"""What a published LLaDA ``config.json`` means, and which of its switches are supported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from starr_engine.models.base import ModelSpec
from starr_engine.models.loading.config_fields import MOST_LAYERS, MOST_POSITIONS, ConfigFields

ARCHITECTURE: Final = "LLaDAModelLM"

_ONE_VALUE: Final[tuple[tuple[str, object, object], ...]] = (
    ("block_type", "llama", "sequential"),
    ("activation_type", "silu", "swiglu"),
    ("layer_norm_type", "rms", "default"),
    ("layer_norm_with_affine", True, True),
    ("rope", True, False),
    ("alibi", False, False),
    ("attention_layer_norm", False, False),
    ("input_emb_norm", False, False),
    ("scale_logits", False, False),
    ("block_group_size", 1, 1),
    ("clip_qkv", None, None),
    ("rope_scaling", None, None),
)
"""Fields that change the arithmetic: (name, supported value, published default if absent)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LLaDAConfig:
    """The arithmetic of one checkpoint."""

    spec: ModelSpec
    mlp_hidden_size: int
    rms_norm_eps: float
    rope_theta: float
    rope_full_precision: bool
    weight_tying: bool
    qkv_bias: bool
    """Of the query, key and value projections."""

    linear_bias: bool
    """Of all other projections, an untied head included."""

    norm_bias: bool

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> LLaDAConfig:
        """Check and translate ``config.json``.

        Sizes, token ids and the norm's epsilon must be written down; absent switches take the
        defaults of the published configuration class.

        Raises:
            ConfigError: Names every field that is missing or not supported.
        """
        fields = ConfigFields(config, ARCHITECTURE)
        for name, supported, default in _ONE_VALUE:
            fields.require(name, supported, default=default)
        linear_bias = fields.flag("include_bias", default=False)
        hidden_size = fields.positive_int("d_model")
        parsed = cls(
            spec=_spec(fields, hidden_size),
            mlp_hidden_size=_mlp_hidden_size(fields, hidden_size),
            rms_norm_eps=fields.positive_number("rms_norm_eps"),
            rope_theta=fields.positive_number("rope_theta"),
            rope_full_precision=fields.flag("rope_full_precision", default=True),
            weight_tying=fields.flag("weight_tying", default=True),
            qkv_bias=fields.flag("include_qkv_bias", default=False) or linear_bias,
            linear_bias=linear_bias,
            norm_bias=fields.flag("bias_for_layer_norm", default=linear_bias),
        )
        fields.check()
        return parsed


def _spec(fields: ConfigFields, hidden_size: int) -> ModelSpec:
    num_heads = fields.positive_int("n_heads")
    if hidden_size % (2 * num_heads):
        fields.problem(
            "d_model must be an even multiple of n_heads, because rotary positions pair "
            f"components: d_model={hidden_size}, n_heads={num_heads}"
        )
    vocab_size = fields.positive_int("vocab_size")
    rows = fields.positive_int("embedding_size", default=vocab_size)
    if rows < vocab_size:
        fields.problem(
            f"embedding_size must be at least vocab_size: embedding_size={rows}, "
            f"vocab_size={vocab_size}"
        )
    mask_token_id = fields.token_id("mask_token_id")
    eos_token_ids = fields.token_ids("eos_token_id")
    fields.check_rows("mask_token_id", (mask_token_id,), rows)
    fields.check_rows("eos_token_id", eos_token_ids, rows)
    return ModelSpec(
        architecture=ARCHITECTURE,
        vocab_size=rows,
        hidden_size=hidden_size,
        num_layers=fields.positive_int("n_layers", at_most=MOST_LAYERS),
        num_heads=num_heads,
        num_kv_heads=_num_kv_heads(fields, num_heads),
        head_dim=hidden_size // num_heads,
        max_model_len=fields.positive_int("max_sequence_length", at_most=MOST_POSITIONS),
        mask_token_id=mask_token_id,
        eos_token_ids=eos_token_ids,
        attention_kind="bidirectional",
    )


def _mlp_hidden_size(fields: ConfigFields, hidden_size: int) -> int:
    if fields.optional("mlp_hidden_size", None) is None:
        return fields.positive_int("mlp_ratio", default=4) * hidden_size
    return fields.positive_int("mlp_hidden_size")


def _num_kv_heads(fields: ConfigFields, num_heads: int) -> int:
    """Key/value heads: ``n_kv_heads``, unless ``multi_query_attention`` says 1 or all."""
    multi_query = fields.optional("multi_query_attention", None)
    if multi_query not in (None, True, False):
        fields.problem(f"multi_query_attention must be true, false or null, got {multi_query!r}")
    implied = 1 if multi_query is True else num_heads
    num_kv_heads = fields.positive_int("n_kv_heads", default=implied)
    if multi_query is not None and num_kv_heads != implied:
        fields.problem(
            f"n_kv_heads={num_kv_heads} contradicts multi_query_attention={multi_query!r}, "
            f"which means {implied}; leave one of them out"
        )
    if num_heads % num_kv_heads:
        fields.problem(
            f"n_heads must be a multiple of n_kv_heads: n_heads={num_heads}, "
            f"n_kv_heads={num_kv_heads}"
        )
    return num_kv_heads
