"""The second shipped model's folder: published names and fields, and the first one's tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import starr_engine.study.tasks as tasks

safetensors = pytest.importorskip("safetensors")

ASSETS = Path(tasks.__file__).parents[2] / "assets"
MODEL = ASSETS / "tiny-sdar"


@pytest.fixture(scope="module")
def config() -> Any:
    return json.loads((MODEL / "config.json").read_text())


def test_tensors_have_the_published_names_and_are_small(config: Any) -> None:
    attention = ["q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"]
    layer = [f"self_attn.{name}" for name in attention]
    layer += [f"mlp.{name}" for name in ("gate_proj", "up_proj", "down_proj")]
    layer += ["input_layernorm", "post_attention_layernorm"]
    expected = {"model.embed_tokens.weight", "model.norm.weight"}
    for index in range(config["num_hidden_layers"]):
        expected |= {f"model.layers.{index}.{name}.weight" for name in layer}
    with safetensors.safe_open(MODEL / "model.safetensors", "pt") as file:
        assert set(file.keys()) == expected
        assert {file.get_slice(name).get_dtype() for name in expected} == {"BF16"}
        width = config["hidden_size"]
        heads = config["num_attention_heads"] * config["head_dim"]
        shapes = {
            "model.embed_tokens.weight": [config["vocab_size"], width],
            "model.layers.0.self_attn.q_proj.weight": [heads, width],
            "model.layers.0.self_attn.q_norm.weight": [config["head_dim"]],
            "model.layers.0.mlp.down_proj.weight": [width, config["intermediate_size"]],
        }
        assert {name: file.get_slice(name).get_shape() for name in shapes} == shapes
    assert (MODEL / "model.safetensors").stat().st_size < 8 * 2**20


def test_the_configuration_is_that_of_a_block_causal_model_with_a_tied_head(config: Any) -> None:
    assert (config["architectures"], config["model_type"]) == (["SDARForCausalLM"], "sdar")
    assert config["block_size"] == 16
    assert config["tie_word_embeddings"] is True


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]
)
def test_the_tokenizer_is_that_of_tiny_llada(name: str) -> None:
    assert (MODEL / name).read_bytes() == (ASSETS / "tiny-llada" / name).read_bytes()


def test_special_tokens_agree_with_the_first_model(config: Any) -> None:
    first = json.loads((ASSETS / "tiny-llada" / "config.json").read_text())
    for name in ("mask_token_id", "eos_token_id", "pad_token_id", "vocab_size"):
        assert config[name] == first[name]


def test_the_scores_on_file_meet_the_requirements() -> None:
    record = json.loads((MODEL / "scores.json").read_text())
    assert set(record["scores"]) == set(record["required"]) == set(tasks.TASKS)
    assert all(record["scores"][name] >= least for name, least in record["required"].items())
    assert record["problems_per_task"] == 500
