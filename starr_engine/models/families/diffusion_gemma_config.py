"""What a published DiffusionGemma ``config.json`` means, and which of its switches are supported.

The language model is described in ``text_config``. Two spellings of what differs between its two
kinds of layers are read: ``global_head_dim`` and ``num_global_key_value_heads``, as in the
published file, and ``per_layer_config``, as transformers 5 writes it.

Source:
    ``config.json`` of google/diffusiongemma-26B-A4B-it as quoted by other engines' tests, and the
    configuration class of transformers 5.23, from which the defaults are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from starr_engine.models.base import LayerShape, ModelSpec
from starr_engine.models.decoder_config import read_spec
from starr_engine.models.loading.config_fields import MOST_EXPERTS, ConfigFields
from starr_engine.models.loading.config_files import ConfigFiles

ARCHITECTURE: Final = "DiffusionGemmaForBlockDiffusion"
SLIDING: Final = "sliding_attention"
FULL: Final = "full_attention"

_PERIOD: Final = 6
"""Layers after which a full one comes where ``layer_types`` is absent."""

_ONE_VALUE: Final[tuple[tuple[str, object, object], ...]] = (
    ("model_type", "diffusion_gemma_text", "diffusion_gemma_text"),
    ("hidden_activation", "gelu_pytorch_tanh", "gelu_pytorch_tanh"),
    ("attention_bias", False, False),
    ("tie_word_embeddings", True, True),
)
"""Fields of ``text_config``: (name, supported value, published default if absent)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turning:
    """How one kind of layers turns queries and keys."""

    theta: float
    share: float = 1.0
    """Of a head's pairs, the first ones, which turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffusionGemmaConfig:
    """The arithmetic of one checkpoint."""

    spec: ModelSpec
    num_rows: int
    """Rows of the embedding."""

    layer_types: tuple[str, ...]
    turning: Mapping[str, Turning]
    """By layer type."""

    intermediate_size: int
    """Of the dense part that stands beside every mixture."""

    rms_norm_eps: float
    num_experts: int
    num_chosen: int
    expert_size: int
    """Inner size of one expert."""

    softcap: float
    """Bound of the logits."""


def read_diffusion_gemma(files: ConfigFiles) -> DiffusionGemmaConfig:
    """Check and translate the files of a checkpoint.

    Raises:
        ConfigError: Names every field that is missing or not supported.
    """
    top = ConfigFields(files.config, ARCHITECTURE)
    top.require("model_type", "diffusion_gemma", default=None)
    top.require("tie_word_embeddings", True, default=True)
    top.require("quantization_config", None, default=None)
    text = _object(top, "text_config")
    for name, supported, default in _ONE_VALUE:
        text.require(name, supported, default=default)
    if text.optional("use_bidirectional_attention", "vision") != "vision":
        # "vision" is about images, which are not read here.
        text.problem("use_bidirectional_attention must be 'vision' or null")
    spec = read_spec(
        text,
        files,
        architecture=ARCHITECTURE,
        mask_token_id=0,
        head_dim_is_written=True,
        attention_kind="causal_context",
        block_length=top.positive_int("canvas_length", default=256),
        self_conditioning=True,
    )
    types = _layer_types(text, spec.num_layers)
    num_experts = text.positive_int("num_experts", at_most=MOST_EXPERTS)
    num_chosen = text.positive_int("top_k_experts")
    if num_chosen > num_experts:
        text.problem(
            "top_k_experts must be at most num_experts: "
            f"top_k_experts={num_chosen}, num_experts={num_experts}"
        )
    turning = _turning(text, types)
    config = DiffusionGemmaConfig(
        spec=_with_uniform_noise(_with_shapes(text, spec, types)),
        num_rows=spec.vocab_size,
        layer_types=types,
        turning=turning,
        intermediate_size=text.positive_int("intermediate_size"),
        rms_norm_eps=text.positive_number("rms_norm_eps"),
        num_experts=num_experts,
        num_chosen=num_chosen,
        expert_size=text.positive_int("moe_intermediate_size"),
        softcap=text.positive_number("final_logit_softcapping", default=30.0),
    )
    top.check()
    return config


def _object(fields: ConfigFields, name: str, default: object = None) -> ConfigFields:
    """The fields of an object inside; an empty one and a problem if it is none."""
    value = fields.optional(name, default)
    if not isinstance(value, Mapping):
        fields.problem(f"{name} must be an object, got {value!r}")
        value = {}
    return fields.of_other_file(name, value)


def _layer_types(text: ConfigFields, num_layers: int) -> tuple[str, ...]:
    usual = [SLIDING if (index + 1) % _PERIOD else FULL for index in range(num_layers - 1)]
    written = text.optional("layer_types", [*usual, FULL])
    if (
        not isinstance(written, list | tuple)
        or len(written) != num_layers
        or any(kind not in (SLIDING, FULL) for kind in written)
        or written[-1] != FULL
    ):
        text.problem(
            f"layer_types must hold {SLIDING!r} or {FULL!r} for each of num_hidden_layers="
            f"{num_layers} layers, and {FULL!r} for the last, got {written!r}"
        )
        return (FULL,) * num_layers
    return tuple(written)


def _turning(text: ConfigFields, types: tuple[str, ...]) -> Mapping[str, Turning]:
    usual = {
        SLIDING: {"rope_type": "default", "rope_theta": 10_000.0},
        FULL: {
            "rope_type": "proportional",
            "partial_rotary_factor": 0.25,
            "rope_theta": 1_000_000.0,
        },
    }
    rope = _object(text, "rope_parameters", usual)
    found = {}
    for kind in sorted(set(types)):
        fields = _object(rope, kind)
        fields.require("factor", 1.0, default=1.0)
        share = fields.positive_number("partial_rotary_factor", default=1.0)
        is_default = fields.optional("rope_type", "default") == "default"
        if not is_default:
            fields.require("rope_type", "proportional", default="default")
        if share > 1 or (is_default and share != 1):
            fields.problem(
                "partial_rotary_factor must be at most 1, and 1 where rope_type is default, got "
                f"{share:g}"
            )
            share = 1.0
        found[kind] = Turning(theta=fields.positive_number("rope_theta"), share=share)
    return found


def _with_shapes(text: ConfigFields, spec: ModelSpec, types: tuple[str, ...]) -> ModelSpec:
    """The spec with heads and windows of every layer."""
    window = text.positive_int("sliding_window") if SLIDING in types else None
    own = _object(text, "per_layer_config", {})
    heads, size = spec.num_kv_heads, spec.head_dim
    if not text.has("per_layer_config"):
        heads = text.positive_int("num_global_key_value_heads", default=heads)
        size = text.positive_int("global_head_dim", default=512)
    shapes = []
    for index, kind in enumerate(types):
        fields = _object(own, str(index), {})
        is_sliding = kind == SLIDING or text.has("per_layer_config")
        num_kv_heads = fields.positive_int(
            "num_key_value_heads", default=spec.num_kv_heads if is_sliding else heads
        )
        head_dim = fields.positive_int("head_dim", default=spec.head_dim if is_sliding else size)
        if spec.num_heads % num_kv_heads or head_dim % 2:
            text.problem(
                f"layer {index} must have key/value heads that divide num_attention_heads="
                f"{spec.num_heads} and an even head size, got {num_kv_heads} heads of {head_dim}"
            )
        shapes.append(
            LayerShape(
                num_kv_heads=num_kv_heads,
                head_dim=head_dim,
                window=window if kind == SLIDING else None,
            )
        )
    for kind in sorted(set(types)):
        sizes = {shape.head_dim for shape, each in zip(shapes, types, strict=True) if each == kind}
        if len(sizes) > 1:
            text.problem(f"heads of all {kind} layers must have one size, got {sorted(sizes)}")
    first = shapes[0]
    return replace(
        spec,
        num_kv_heads=first.num_kv_heads,
        head_dim=first.head_dim,
        layer_shapes=tuple(shapes),
    )


def _with_uniform_noise(spec: ModelSpec) -> ModelSpec:
    """The id behind the vocabulary stands for what is not decided: no token does."""
    size = spec.vocab_size
    return replace(spec, noise="uniform", vocab_size=size + 1, mask_token_id=size)
