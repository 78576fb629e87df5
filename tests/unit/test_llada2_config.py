"""Every switch of a LLaDA2 configuration is computed as published or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from starr_engine.errors import ConfigError
from starr_engine.make_checkpoint.published import published_model
from starr_engine.models.base import ModelSpec
from starr_engine.models.decoder_config import DecoderConfig
from starr_engine.models.families.llada2 import LLaDA2Model
from starr_engine.models.families.llada2_config import LLaDA2Config, read_llada2
from starr_engine.models.loading.config_files import ConfigFiles
from starr_engine.models.loading.loader import load_model
from tests.helpers.llada2_checkpoints import (
    llada2_config,
    llada2_tensors,
    write_llada2_checkpoint,
)


def read(config: dict[str, Any], **files: dict[str, Any]) -> LLaDA2Config:
    """The configuration, with the content of the files beside it."""
    return read_llada2(ConfigFiles(config=config, **files))


def refusal(config: dict[str, Any], **files: dict[str, Any]) -> str:
    """Message of the refusal of ``config``."""
    with pytest.raises(ConfigError) as caught:
        read(config, **files)
    return str(caught.value)


def without(*names: str, **changes: Any) -> dict[str, Any]:
    """A valid configuration that lacks some fields."""
    return {key: value for key, value in llada2_config(**changes).items() if key not in names}


def test_llada2_1_mini_is_understood() -> None:
    assert read(dict(published_model("llada2", "2.1-mini").config)) == LLaDA2Config(
        decoder=DecoderConfig(
            spec=ModelSpec(
                architecture="LLaDA2MoeModelLM",
                vocab_size=157184,
                hidden_size=2048,
                num_layers=20,
                num_heads=16,
                num_kv_heads=4,
                head_dim=128,
                max_model_len=32768,
                mask_token_id=156895,
                eos_token_ids=(156892,),
                attention_kind="block_causal",
                block_length=32,
            ),
            intermediate_size=5120,
            rms_norm_eps=1e-6,
            rope_theta=6e5,
            tied_head=False,
            qkv_bias=False,
            output_bias=False,
            qk_norm=True,
        ),
        num_turned=64,
        num_dense_layers=1,
        num_experts=256,
        num_experts_chosen=8,
        num_groups=8,
        num_groups_chosen=4,
        expert_size=512,
        shared_size=512,
        routing_scale=2.5,
    )


def test_flash_has_as_many_tensors_and_parameters_as_the_published_checkpoint() -> None:
    """As counted in the published shards, and as the hub lists: LLaDA2.2 has the same tensors."""
    config = published_model("llada2", "2.1-flash").config
    model = LLaDA2Model.from_files(ConfigFiles(config=config))
    assert len(model.tensor_places()) == 24161
    assert sum(parameter.numel() for parameter in model.parameters()) == 102_889_705_216
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


@pytest.mark.parametrize(
    ("field", "value", "supported"),
    [
        ("model_type", "llada2_moe_veomni", "'llada2_moe'"),
        ("hidden_act", "gelu", "'silu'"),
        ("use_rmsnorm", False, "True"),
        ("norm_head", True, "False"),
        ("rope_scaling", {"rope_type": "yarn", "factor": 4.0}, "None"),
        ("use_sliding_window", True, "False"),
        ("score_function", "softmax", "'sigmoid'"),
        ("router_dtype", "bf16", "'fp32'"),
        ("moe_router_enable_expert_bias", False, "True"),
        ("norm_topk_prob", False, "True"),
        ("quantization_config", {"quant_method": "fp8"}, "None"),
    ],
)
def test_a_switch_that_is_not_computed_is_refused_by_name(
    field: str, value: object, supported: str
) -> None:
    message = refusal(llada2_config(**{field: value}))
    assert message.endswith(f": {field} must be {supported}, got {value!r}")


def test_absent_switches_take_the_published_defaults() -> None:
    bare = without(
        "hidden_act", "use_rmsnorm", "norm_head", "rope_scaling", "use_sliding_window",
        "score_function", "router_dtype", "moe_router_enable_expert_bias", "norm_topk_prob",
        "rotary_dim", "partial_rotary_factor", "routed_scaling_factor", "tie_word_embeddings",
        "use_qkv_bias", "using_split_qkv_in_self_attention",
    )  # fmt: skip
    assert read(bare) == read(llada2_config(use_qk_norm=True))
    assert read(without("n_group", "topk_group", num_experts=16)).num_groups_chosen == 4
    assert read(without("use_bias")).decoder.output_bias


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_group": 5}, "num_experts must be a multiple of n_group, and at least twice as many"),
        ({"n_group": 12}, "num_experts must be a multiple of n_group, and at least twice as many"),
        ({"topk_group": 5}, "topk_group groups must be among the n_group there are"),
        ({"num_experts_per_tok": 7}, "hold num_experts_per_tok experts: n_group=4 of 3 experts"),
        ({"partial_rotary_factor": 1.5}, "partial_rotary_factor must be at most 1"),
        ({"partial_rotary_factor": 0.25, "rotary_dim": 5}, "turn an even number of components"),
        ({"rotary_dim": 20}, "rotary_dim=20 contradicts partial_rotary_factor"),
        ({"first_k_dense_replace": -1}, "first_k_dense_replace must be a whole number, 0 or above"),
        ({"num_shared_experts": 0}, "num_shared_experts must be a whole number above 0"),
        ({"num_experts": None}, "num_experts is missing"),
        ({"intermediate_size": None}, "intermediate_size is missing"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes: dict[str, Any], message: str) -> None:
    assert message in refusal(llada2_config(**changes))


def test_llada2_2_is_told_apart_and_refused() -> None:
    """By the fields that its published configuration adds."""
    added = {"block_size": 32, "expert_capacity": 48, "delete_token_id": 98, "split_token_id": 99}
    message = refusal(llada2_config(**added, use_qk_norm=True))
    assert "expert_capacity, delete_token_id, split_token_id are LLaDA2.2's" in message
    assert "use a LLaDA2.0 or 2.1 checkpoint" in message


def test_ids_that_no_file_names_are_those_of_the_published_vocabulary_alone() -> None:
    names = ("mask_token_id", "eos_token_id")
    spec = read(without(*names, vocab_size=157184)).decoder.spec
    assert (spec.mask_token_id, spec.eos_token_ids) == (156895, (156892,))
    message = refusal(without(*names))
    assert "mask_token_id is missing" in message
    assert "eos_token_id is missing" in message
    # What a file does name goes first.
    tokenizer = {"mask_token": "<|mask|>", "added_tokens_decoder": {"7": {"content": "<|mask|>"}}}
    spec = read(
        without(*names, vocab_size=157184), tokenizer=tokenizer, generation={"eos_token_id": [8, 9]}
    ).decoder.spec
    assert (spec.mask_token_id, spec.eos_token_ids) == (7, (8, 9))


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    tensors = llada2_tensors(llada2_config())
    del tensors["model.layers.1.mlp.gate.expert_bias"]
    del tensors["model.layers.2.mlp.experts.11.up_proj.weight"]
    tensors["model.layers.0.mlp.gate.weight"] = torch.zeros(12, 48)
    folder = write_llada2_checkpoint(tmp_path, tensors=tensors)
    with pytest.raises(ConfigError) as caught:
        load_model(folder, torch.device("cpu"), torch.float32)
    assert str(caught.value).endswith(
        "missing (2): model.layers.1.mlp.gate.expert_bias, "
        "model.layers.2.mlp.experts.11.up_proj.weight; "
        "unexpected (1): model.layers.0.mlp.gate.weight"
    )
