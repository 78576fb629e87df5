"""Every switch of the two mixtures' configurations is computed as published or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from starr_engine.errors import ConfigError
from starr_engine.make_checkpoint.architectures import llada_moe, sdar_moe
from starr_engine.make_checkpoint.published import PublishedModel
from starr_engine.make_checkpoint.tokenizer import tokenizer_config
from starr_engine.models.base import MODELS, DiffusionModel
from starr_engine.models.decoder_config import DecoderConfig
from starr_engine.models.families.llada_moe_config import read_llada_moe
from starr_engine.models.families.sdar_moe_config import read_sdar_moe
from starr_engine.models.loading.config_files import ConfigFiles
from starr_engine.models.mixture import SoftmaxMixture
from tests.helpers.moe_checkpoints import (
    MASK_TOKEN_ID,
    TOKENIZER,
    llada_moe_config,
    sdar_moe_config,
)

Read = tuple[DecoderConfig, SoftmaxMixture]


def read_llada(tokenizer: dict[str, Any] = TOKENIZER, **changes: Any) -> Read:
    """What LLaDA-MoE's configuration with ``changes`` means; "gone" takes a field out."""
    config = {k: v for k, v in llada_moe_config(**changes).items() if changes.get(k, "") != "gone"}
    return read_llada_moe(ConfigFiles(config=config, tokenizer=tokenizer))


def read_sdar(**changes: Any) -> Read:
    """As above, of SDAR-MoE."""
    config = {k: v for k, v in sdar_moe_config(**changes).items() if changes.get(k, "") != "gone"}
    return read_sdar_moe(ConfigFiles(config=config))


def built(published: PublishedModel) -> DiffusionModel:
    """The model of a published size, its parameters on ``meta``."""
    files = ConfigFiles(config=published.config, tokenizer=tokenizer_config(published.tokens))
    return MODELS.get(published.config["architectures"][0]).from_files(files)


@pytest.mark.parametrize(
    ("published", "count"),
    [
        # As many as the published weights have.
        (llada_moe.SIZES["7b-a1b"], 7_356_880_896),
        # As many as those of Qwen3-30B-A3B, from which it was made.
        (sdar_moe.SIZES["30b-a3b"], 30_532_122_624),
    ],
)
def test_the_published_sizes_have_their_parameters(published: PublishedModel, count: int) -> None:
    model = built(published)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    parameters = dict(model.named_parameters())
    stored = (place.of(parameters[place.parameter]) for place in model.tensor_places().values())
    assert sum(part.numel() for part in stored) == count


def test_llada_moe_is_understood() -> None:
    config, mixture = read_llada()
    assert config.spec.architecture == "LLaDAMoEModel"
    assert (config.spec.attention_kind, config.spec.logits_shift) == ("bidirectional", False)
    assert (config.spec.mask_token_id, config.spec.eos_token_ids) == (MASK_TOKEN_ID, (1,))
    assert (config.qk_norm, config.qkv_bias, config.spec.head_dim) == (True, False, 12)
    assert mixture == SoftmaxMixture(
        num_experts=12, num_chosen=3, inner_size=24, renormalise=False, layers=(True, True)
    )


def test_sdar_moe_is_understood() -> None:
    config, mixture = read_sdar()
    assert config.spec.architecture == "SDARMoeForCausalLM"
    assert (config.spec.attention_kind, config.spec.block_length) == ("block_causal", 8)
    assert (config.intermediate_size, config.qk_norm, config.spec.head_dim) == (80, True, 14)
    assert mixture == SoftmaxMixture(
        num_experts=12, num_chosen=3, inner_size=24, renormalise=True, layers=(False, True)
    )


@pytest.mark.parametrize(
    ("changes", "layers"),
    [
        ({"mlp_only_layers": "gone", "decoder_sparse_step": "gone"}, (True,) * 5),
        ({"mlp_only_layers": [3], "decoder_sparse_step": 2}, (False, True, False, False, False)),
        ({"mlp_only_layers": [1, 4]}, (True, False, True, True, False)),
    ],
)
def test_sdar_moe_says_which_layers_are_mixtures(
    changes: dict[str, Any], layers: tuple[bool, ...]
) -> None:
    assert read_sdar(num_hidden_layers=5, **changes)[1].layers == layers


def test_only_dense_layers_need_a_size_of_their_own() -> None:
    assert read_sdar(mlp_only_layers=[], intermediate_size="gone")[1].layers == (True, True)
    config, mixture = read_llada(moe_layer_freq=[0, 1], dense_intermediate_size=56)
    assert (config.intermediate_size, mixture.layers) == (56, (False, True))


def test_absent_switches_take_the_published_defaults() -> None:
    gone = dict.fromkeys(
        ("attention_bias", "clip_qkv", "hidden_act", "tie_word_embeddings"), "gone"
    )
    assert read_llada(**gone) == read_llada()
    assert read_llada(qk_layernorm="gone")[0].qk_norm is False
    # Published under this name, and changed to the other by a training framework.
    assert read_llada(model_type="lladamoe") == read_llada()
    assert read_llada(architectures=["LLaDAMoEModelLM"])[0].spec.architecture == "LLaDAMoEModelLM"
    assert read_llada({}, mask_token_id=7)[0].spec.mask_token_id == 7


@pytest.mark.parametrize(
    ("read", "changes", "message"),
    [
        (read_llada, {"clip_qkv": 8.0}, "clip_qkv must be None, got 8.0"),
        (read_llada, {"partial_rotary_factor": 0.5}, "partial_rotary_factor must be 1, got 0.5"),
        (read_llada, {"shared_expert_intermediate_size": 64}, "shared_expert_intermediate_size"),
        (read_llada, {"moe_router_enable_expert_bias": True}, "moe_router_enable_expert_bias"),
        (read_llada, {"rope_scaling": {"type": "yarn"}}, "rope_scaling must be None"),
        (read_llada, {"model_type": "llama"}, "model_type must be 'llada' or 'lladamoe'"),
        (read_llada, {"moe_layer_freq": [1]}, "one number for each layer: 1 for num_hidden"),
        (read_llada, {"moe_layer_freq": "gone"}, "moe_layer_freq is missing"),
        (read_llada, {"moe_layer_freq": [1, -1]}, "a list of whole numbers, 0 or above"),
        (read_llada, {"moe_layer_freq": [1, 0]}, "dense_intermediate_size is missing"),
        (read_llada, {"head_dim": 14}, "head_dim must be hidden_size / num_attention_heads"),
        (read_llada, {"tokenizer": {}}, "mask_token_id is missing"),
        (read_sdar, {"norm_topk_prob": "gone"}, "norm_topk_prob is missing"),
        (read_sdar, {"num_experts_per_tok": 13}, "num_experts_per_tok must be at most num_experts"),
        (read_sdar, {"num_experts": 0}, "num_experts must be a whole number above 0, got 0"),
        (read_sdar, {"num_experts": 10**8}, "num_experts must be at most"),
        (read_sdar, {"moe_intermediate_size": "gone"}, "moe_intermediate_size is missing"),
        (read_sdar, {"intermediate_size": "gone"}, "intermediate_size is missing, and not all"),
        (read_sdar, {"mlp_only_layers": "0"}, "mlp_only_layers must be a list"),
        (read_sdar, {"model_type": "sdar"}, "model_type must be 'sdar_moe', got 'sdar'"),
        (read_sdar, {"use_sliding_window": True}, "use_sliding_window must be False"),
    ],
)
def test_anything_else_is_refused_by_name(
    read: Callable[..., Read], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        read(**changes)


def test_all_problems_come_in_one_message() -> None:
    with pytest.raises(ConfigError) as caught:
        read_llada(clip_qkv=1, num_experts="gone", hidden_act="gelu", expert_intermediate_size=0)
    for name in ("clip_qkv", "num_experts", "hidden_act", "expert_intermediate_size"):
        assert f"{name} " in str(caught.value)
