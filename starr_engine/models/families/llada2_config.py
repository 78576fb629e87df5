"""What a published LLaDA2.0 or 2.1 ``config.json`` means, and which of its switches are supported.

Fields are those of Ling 2.0, from which the models were made. Three things are not among them,
because the published ``generate`` has them as the defaults of its arguments: the block length (32)
and, by id in the published vocabulary, the mask token and the token that ends an output.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from starr_engine.models.decoder_config import (
    DecoderConfig,
    read_decoder,
    read_mask_token_id,
    read_spec,
)
from starr_engine.models.loading.config_fields import MOST_EXPERTS, ConfigFields
from starr_engine.models.loading.config_files import ConfigFiles

ARCHITECTURE: Final = "LLaDA2MoeModelLM"

BLOCK_LENGTH: Final = 32
PUBLISHED_VOCAB_SIZE: Final = 157184
PUBLISHED_MASK_TOKEN_ID: Final = 156895
PUBLISHED_EOS_TOKEN_ID: Final = 156892
"""Of the published vocabulary alone."""

_ONE_VALUE: Final[tuple[tuple[str, object, object], ...]] = (
    ("model_type", "llada2_moe", None),
    ("hidden_act", "silu", "silu"),
    ("use_rmsnorm", True, True),
    ("norm_head", False, False),
    ("use_sliding_window", False, False),
    ("using_split_qkv_in_self_attention", False, False),
    ("score_function", "sigmoid", "sigmoid"),
    ("router_dtype", "fp32", "fp32"),
    ("moe_router_enable_expert_bias", True, True),
    ("norm_topk_prob", True, True),
    ("quantization_config", None, None),
)
"""Fields that change the arithmetic: (name, supported value, published default if absent)."""

_OF_LATER_MODELS: Final = ("expert_capacity", "delete_token_id", "split_token_id")
"""Written by LLaDA2.2, which routes whole blocks and inserts and deletes tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LLaDA2Config:
    """The arithmetic of one checkpoint."""

    decoder: DecoderConfig
    num_turned: int
    """Components of a head that rotary positions turn, the first ones."""

    num_dense_layers: int
    """Layers from the first on whose feed-forward part is dense; the others are mixtures."""

    num_experts: int
    num_experts_chosen: int
    """Of each row, besides what serves all rows."""

    num_groups: int
    num_groups_chosen: int
    """Groups of neighbouring experts, and those from which a row's experts come."""

    expert_size: int
    """Inner size of one expert."""

    shared_size: int
    """Inner size of the part that serves every row."""

    routing_scale: float
    """Factor of the weights of a row's experts, which sum to one before."""


def read_llada2(files: ConfigFiles) -> LLaDA2Config:
    """Check and translate the files of a checkpoint.

    Sizes, the rotary base and the norm's epsilon must be written down; absent switches take the
    defaults of the published configuration class.

    Raises:
        ConfigError: Names every field that is missing or not supported.
    """
    files = _with_published_tokens(files)
    fields = ConfigFields(files.config, ARCHITECTURE)
    later = [name for name in _OF_LATER_MODELS if fields.has(name)]
    if later:
        fields.problem(
            f"{', '.join(later)} are LLaDA2.2's, which routes whole blocks and inserts and deletes "
            "tokens; neither is supported, use a LLaDA2.0 or 2.1 checkpoint"
        )
    for name, supported, default in _ONE_VALUE:
        fields.require(name, supported, default=default)
    spec = read_spec(
        fields,
        files,
        architecture=ARCHITECTURE,
        mask_token_id=read_mask_token_id(
            fields, files.tokenizer, f"{PUBLISHED_MASK_TOKEN_ID} in the published vocabulary"
        ),
        head_dim_is_written=False,
        attention_kind="block_causal",
        block_length=fields.positive_int("block_length", default=BLOCK_LENGTH),
    )
    num_dense = fields.count("first_k_dense_replace", default=0)
    decoder = read_decoder(
        fields,
        spec,
        qkv_bias=fields.flag("use_qkv_bias", default=False),
        output_bias=fields.flag("use_bias", default=True),
        qk_norm=fields.flag("use_qk_norm", default=True),
        has_dense_layers=num_dense > 0,
    )
    expert_size = fields.positive_int("moe_intermediate_size")
    config = LLaDA2Config(
        decoder=decoder,
        num_turned=_num_turned(fields, spec.head_dim),
        num_dense_layers=num_dense,
        num_experts=fields.positive_int("num_experts", at_most=MOST_EXPERTS),
        num_experts_chosen=fields.positive_int("num_experts_per_tok"),
        num_groups=fields.positive_int("n_group", default=8),
        num_groups_chosen=fields.positive_int("topk_group", default=4),
        expert_size=expert_size,
        shared_size=expert_size * fields.positive_int("num_shared_experts"),
        routing_scale=fields.positive_number("routed_scaling_factor", default=2.5),
    )
    _check_groups(fields, config)
    fields.check()
    return config


def _with_published_tokens(files: ConfigFiles) -> ConfigFiles:
    """The files with the ids that ``generate`` takes for granted, where none of them says any."""
    if files.config.get("vocab_size") != PUBLISHED_VOCAB_SIZE:
        return files
    config: Mapping[str, Any] = files.config
    if config.get("mask_token_id") is None and files.tokenizer.get("mask_token") is None:
        config = {**config, "mask_token_id": PUBLISHED_MASK_TOKEN_ID}
    if all(listed.get("eos_token_id") is None for listed in (config, files.generation)):
        config = {**config, "eos_token_id": PUBLISHED_EOS_TOKEN_ID}
    return replace(files, config=config)


def _num_turned(fields: ConfigFields, head_dim: int) -> int:
    share = fields.positive_number("partial_rotary_factor", default=0.5)
    num_turned = int(head_dim * share)
    if share > 1 or num_turned < 2 or num_turned % 2:
        fields.problem(
            "partial_rotary_factor must be at most 1 and turn an even number of components, 2 or "
            f"more: {share:g} of head_dim={head_dim} is {num_turned}"
        )
    written = fields.positive_int("rotary_dim", default=num_turned)
    if written != num_turned:
        fields.problem(
            f"rotary_dim={written} contradicts partial_rotary_factor, by which {num_turned} "
            "components turn"
        )
    return num_turned


def _check_groups(fields: ConfigFields, config: LLaDA2Config) -> None:
    """A group is judged by its two best experts, and a row's experts must fit into its groups."""
    experts, groups, chosen = config.num_experts, config.num_groups, config.num_groups_chosen
    size = experts // groups
    if experts % groups or size < 2:
        fields.problem(
            "num_experts must be a multiple of n_group, and at least twice as many: "
            f"num_experts={experts}, n_group={groups}"
        )
    elif chosen > groups or config.num_experts_chosen > chosen * size:
        fields.problem(
            "topk_group groups must be among the n_group there are and hold num_experts_per_tok "
            f"experts: n_group={groups} of {size} experts, topk_group={chosen}, "
            f"num_experts_per_tok={config.num_experts_chosen}"
        )
