"""What a published LLaDA-MoE ``config.json`` means, and which of its switches are supported.

The published modelling file chooses experts by a softmax over all and never scales their weights
to sum to one; it does not use ``norm_topk_prob``, ``moe_router_score_function``,
``routed_scaling_factor``, ``router_num_group`` and ``router_topk_group``, whatever they say.

Source:
    ``configuration_lladamoe.py`` and ``modeling_lladamoe.py`` of inclusionAI/LLaDA-MoE-7B-A1B, as
    kept in ZHZisZZ/dllm-trainer and, with fused experts, in inclusionAI/dInfer.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from starr_engine.models.decoder_config import (
    DecoderConfig,
    read_decoder,
    read_mask_token_id,
    read_spec,
)
from starr_engine.models.loading.config_fields import ConfigFields
from starr_engine.models.loading.config_files import ConfigFiles
from starr_engine.models.mixture import SoftmaxMixture, read_num_experts

ARCHITECTURES: Final = ("LLaDAMoEModelLM", "LLaDAMoEModel")
"""The class of the published modelling file, and the name that config.json has for it."""

_MODEL_TYPES: Final = ("llada", "lladamoe")
"""As published, and as a training framework asks users to change it."""

_ONE_VALUE: Final[tuple[tuple[str, object, object], ...]] = (
    ("hidden_act", "silu", "silu"),
    ("rope_scaling", None, None),
    ("rope_parameters", None, None),
    ("partial_rotary_factor", 1, -1),
    ("clip_qkv", None, None),
    ("shared_expert_intermediate_size", None, -1),
    ("quantization_config", None, None),
)
"""Fields that change the arithmetic: (name, supported value, published default if absent)."""


def read_llada_moe(files: ConfigFiles) -> tuple[DecoderConfig, SoftmaxMixture]:
    """Check and translate the files of a checkpoint.

    Sizes, the rotary base, the norm's epsilon and the ending token must be written down; absent
    switches take the defaults of the published configuration class. The mask token is
    ``mask_token_id`` of ``config.json``, else the tokenizer's.

    Raises:
        ConfigError: Names every field that is missing or not supported.
    """
    architecture = _architecture(files)
    fields = ConfigFields(files.config, architecture)
    if files.config.get("model_type") not in _MODEL_TYPES:
        fields.problem(
            f"model_type must be {' or '.join(map(repr, _MODEL_TYPES))}, "
            f"got {files.config.get('model_type')!r}"
        )
    for name, supported, default in _ONE_VALUE:
        fields.require(name, supported, default=default)
    if fields.optional("moe_router_enable_expert_bias", default=False) is not False:
        fields.problem("moe_router_enable_expert_bias must be false, as in the published weights")
    num_experts, num_chosen = read_num_experts(fields)
    inner_size = fields.positive_int("expert_intermediate_size")
    has_bias = fields.flag("attention_bias", default=False)
    spec = read_spec(
        fields,
        files,
        architecture=architecture,
        mask_token_id=read_mask_token_id(
            fields, files.tokenizer, "156895 where the authors published the checkpoint"
        ),
        head_dim_is_written=False,
        attention_kind="bidirectional",
    )
    if spec.head_dim * spec.num_heads != spec.hidden_size:
        fields.problem(
            "head_dim must be hidden_size / num_attention_heads or absent, "
            f"got {spec.head_dim} with hidden_size={spec.hidden_size} and "
            f"num_attention_heads={spec.num_heads}"
        )
    layers = _mixtures(fields, spec.num_layers)
    config = read_decoder(
        fields,
        spec,
        qkv_bias=has_bias,
        output_bias=has_bias,
        qk_norm=fields.flag("qk_layernorm", default=False),
        has_dense_layers=False,
    )
    if not all(layers):
        dense_size = fields.positive_int("dense_intermediate_size")
        config = replace(config, intermediate_size=dense_size)
    fields.check()
    mixture = SoftmaxMixture(
        num_experts=num_experts,
        num_chosen=num_chosen,
        inner_size=inner_size,
        renormalise=False,
        layers=layers,
    )
    return config, mixture


def _architecture(files: ConfigFiles) -> str:
    """The one of its names that the checkpoint has."""
    listed = files.config.get("architectures") or ()
    return next((name for name in ARCHITECTURES if name in listed), ARCHITECTURES[0])


def _mixtures(fields: ConfigFields, num_layers: int) -> tuple[bool, ...]:
    """Of every layer, whether it is a mixture: 0 in ``moe_layer_freq`` makes it dense."""
    frequencies = fields.whole_numbers("moe_layer_freq")
    if fields.has("moe_layer_freq") and len(frequencies) != num_layers:
        fields.problem(
            "moe_layer_freq must have one number for each layer: "
            f"{len(frequencies)} for num_hidden_layers={num_layers}"
        )
    return tuple(number != 0 for number in frequencies)
