"""Which DiffusionGemma configurations are understood, and which are refused by what name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starr_engine.errors import ConfigError
from starr_engine.make_checkpoint.published import TINY, published_model
from starr_engine.models.base import LayerShape
from starr_engine.models.families.diffusion_gemma_config import (
    FULL,
    SLIDING,
    DiffusionGemmaConfig,
    Turning,
    read_diffusion_gemma,
)
from starr_engine.models.loading.config_files import ConfigFiles

HOSTILE: list[Any] = [
    None, True, False, 0, -1, 1, 7, 2**31, 10**400, 0.0, -1.0, 1e38, float("nan"), "", "4", [],
    [1], {}, {"a": {}}, {"0": 1}, {"1": {"head_dim": 7}}, {"full_attention": {}},
    ["full_attention"], ["full_attention"] * 3,
]  # fmt: skip


def read(
    size: str = TINY, text: Mapping[str, Any] | None = None, **changes: Any
) -> DiffusionGemmaConfig:
    published = published_model("diffusion-gemma", size)
    config = {**published.config, **changes}
    if text is not None:
        config["text_config"] = {**config["text_config"], **text}
    return read_diffusion_gemma(ConfigFiles(config=config, generation=published.generation))


def test_the_published_size() -> None:
    config = read("26b-a4b")
    spec = config.spec
    sliding = LayerShape(num_kv_heads=8, head_dim=256, window=1024)
    full = LayerShape(num_kv_heads=2, head_dim=512)
    assert spec.layer_shapes == (*(sliding,) * 5, full) * 5
    assert (spec.num_kv_heads, spec.head_dim, spec.num_heads) == (8, 256, 16)
    assert spec.kv_values_per_row == 25 * 2 * 8 * 256 + 5 * 2 * 2 * 512
    assert (spec.noise, spec.self_conditioning, spec.needs_exact_cache) == ("uniform", True, True)
    assert (spec.vocab_size, spec.mask_token_id, config.num_rows) == (262145, 262144, 262144)
    assert (spec.attention_kind, spec.block_length, spec.mask_block) == ("causal_context", 256, 1)
    assert config.turning == {SLIDING: Turning(theta=1e4), FULL: Turning(theta=1e6, share=0.25)}
    assert (config.num_experts, config.num_chosen, config.expert_size) == (128, 8, 704)
    assert config.softcap == 30.0


def test_what_transformers_writes_for_heads_means_the_same() -> None:
    own = {"2": {"head_dim": 32, "num_key_value_heads": 1}}
    renamed = read(text={"per_layer_config": own, "global_head_dim": None,
                         "num_global_key_value_heads": None})  # fmt: skip
    assert renamed.spec.layer_shapes == read().spec.layer_shapes


def test_absent_fields_take_the_published_defaults() -> None:
    absent = dict.fromkeys(
        ("layer_types", "rope_parameters", "final_logit_softcapping", "num_global_key_value_heads")
    )
    config = read(text={**absent, "num_hidden_layers": 8}, canvas_length=None)
    assert config.layer_types == (*(SLIDING,) * 5, FULL, SLIDING, FULL)
    assert config.spec.shapes[-1] == LayerShape(num_kv_heads=2, head_dim=32)
    assert config.turning == read("26b-a4b").turning
    assert config.spec.block_length == 256


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"use_bidirectional_attention": "all"}, "use_bidirectional_attention must be 'vision'"),
        ({"tie_word_embeddings": False}, "text_config: tie_word_embeddings must be True"),
        ({"hidden_activation": "silu"}, "hidden_activation must be 'gelu_pytorch_tanh'"),
        ({"layer_types": [SLIDING] * 3}, "layer_types must hold .* for the last"),
        ({"layer_types": [FULL]}, "layer_types must hold"),
        ({"top_k_experts": 9}, "top_k_experts must be at most num_experts"),
        ({"num_experts": None}, "num_experts is missing"),
        ({"global_head_dim": 31}, "layer 2 must have .* an even head size, got 1 heads of 31"),
        ({"num_global_key_value_heads": 3}, "layer 2 must have key/value heads that divide"),
        ({"per_layer_config": {"0": {"head_dim": 8}}}, "heads of all sliding_attention layers"),
        ({"per_layer_config": {"0": 5}}, "0 must be an object, got 5"),
        ({"rope_parameters": {SLIDING: {"rope_theta": 1.0}}}, "full_attention must be an object"),
        (
            {"rope_parameters": {SLIDING: {"rope_type": "yarn", "rope_theta": 1.0}}},
            "rope_type must be 'proportional', got 'yarn'",
        ),
        ({"sliding_window": 0}, "sliding_window must be a whole number above 0"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(text: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(text=text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_config": None}, "text_config must be an object, got None"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings must be True"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config must be None"),
        ({"canvas_length": 0}, "canvas_length must be a whole number above 0"),
        ({"model_type": "gemma4"}, "model_type must be 'diffusion_gemma'"),
    ],
)
def test_the_level_above_is_read_as_strictly(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(**changes)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_hostile_values_inside_are_understood_or_refused(data: st.DataObject) -> None:
    text = published_model("diffusion-gemma", TINY).config["text_config"]
    names = [*sorted(text), "per_layer_config", "use_bidirectional_attention"]
    chosen = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=3))
    changed = {name: data.draw(st.sampled_from(HOSTILE)) for name in chosen}
    try:
        config = read(text=changed)
    except ConfigError:
        return
    assert len(config.spec.shapes) == config.spec.num_layers == len(config.layer_types)
