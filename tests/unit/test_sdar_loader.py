"""SDAR checkpoints are loaded name by name, and refused where they are not fully understood."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from starr_engine.errors import ConfigError
from starr_engine.models.decoder import EMBEDDING_WEIGHT, HEAD_WEIGHT
from starr_engine.models.loading.loader import build_model, load_model
from tests.helpers.checkpoints import write_checkpoint
from tests.helpers.sdar_checkpoints import sdar_config, sdar_tensors, write_sdar_checkpoint

CPU = torch.device("cpu")
Q_NORM = "model.layers.1.self_attn.q_norm.weight"


def load(folder: Path) -> dict[str, Tensor]:
    """Parameters of the loaded model, by name."""
    return dict(load_model(folder, CPU, torch.float32).named_parameters())


def refusal(folder: Path) -> str:
    """Message of the refusal to load ``folder``."""
    with pytest.raises(ConfigError) as caught:
        load_model(folder, CPU, torch.float32)
    return str(caught.value)


@pytest.mark.parametrize("num_shards", [1, 3])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_every_tensor_reaches_the_parameter_of_its_name(
    tmp_path: Path, bias: bool, tied: bool, num_shards: int
) -> None:
    config = sdar_config(tie_word_embeddings=tied, attention_bias=bias)
    tensors = sdar_tensors(config)
    loaded = load(write_sdar_checkpoint(tmp_path, config, tensors, num_shards=num_shards))
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_missing_extra_misshapen_and_integer_tensors_are_reported_together(tmp_path: Path) -> None:
    tensors = sdar_tensors(sdar_config())
    del tensors["model.layers.1.self_attn.k_norm.weight"]
    tensors["model.layers.0.self_attn.q_proj.bias"] = torch.zeros(56)
    tensors[Q_NORM] = torch.zeros(56)
    tensors[EMBEDDING_WEIGHT] = tensors[EMBEDDING_WEIGHT].to(torch.int8)
    assert refusal(write_sdar_checkpoint(tmp_path, tensors=tensors)).endswith(
        "do not fit its config.json; tensors "
        "missing (1): model.layers.1.self_attn.k_norm.weight; "
        "unexpected (1): model.layers.0.self_attn.q_proj.bias; "
        "of wrong shape (1): model.layers.1.self_attn.q_norm.weight is [56], expected [14]; "
        "of a dtype other than F64, F32, F16, BF16 (1): model.embed_tokens.weight is I8"
    )


@pytest.mark.parametrize("name", ["q_proj", "k_proj", "o_proj"])
def test_swapped_axes_are_a_wrong_shape(tmp_path: Path, name: str) -> None:
    tensors = sdar_tensors(sdar_config())
    full = f"model.layers.0.self_attn.{name}.weight"
    rows, columns = tensors[full].shape
    tensors[full] = tensors[full].T.contiguous()
    assert f"{full} is [{columns}, {rows}], expected [{rows}, {columns}]" in refusal(
        write_sdar_checkpoint(tmp_path, tensors=tensors)
    )


def test_experts_under_a_dense_architecture_are_refused(tmp_path: Path) -> None:
    expert = "model.layers.0.mlp.experts.0.gate_proj.weight"
    tensors = sdar_tensors(sdar_config()) | {expert: torch.zeros(80, 48)}
    message = refusal(write_sdar_checkpoint(tmp_path, tensors=tensors))
    assert message.endswith(f"tensors unexpected (1): {expert}")


def test_a_tied_head_may_be_stored_if_it_equals_the_embedding(tmp_path: Path) -> None:
    config = sdar_config(tie_word_embeddings=True)
    tensors = sdar_tensors(config)
    head = tensors[EMBEDDING_WEIGHT].clone()
    folder = write_sdar_checkpoint(tmp_path / "same", config, tensors | {HEAD_WEIGHT: head})
    assert HEAD_WEIGHT not in load(folder)
    head[100, 47] += 1
    folder = write_sdar_checkpoint(tmp_path / "other", config, tensors | {HEAD_WEIGHT: head})
    message = refusal(folder)
    assert f"ties {HEAD_WEIGHT} to {EMBEDDING_WEIGHT}" in message
    assert "(tie_word_embeddings) to false" in message


def test_the_files_beside_the_config_are_read(tmp_path: Path) -> None:
    config = {
        key: value
        for key, value in sdar_config().items()
        if key not in ("block_size", "mask_token_id", "eos_token_id")
    }
    tensors = sdar_tensors(config)
    generation = {"block_length": 16, "eos_token_id": [9, 7]}
    folder = write_sdar_checkpoint(tmp_path, config, tensors, generation_config=generation)
    tokenizer = {"mask_token": "M", "added_tokens_decoder": {"5": {"content": "M"}}}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    spec = load_model(folder, CPU, torch.float32).spec
    assert (spec.block_length, spec.mask_token_id, spec.eos_token_ids) == (16, 5, (9, 7))


def test_generation_config_may_add_ending_tokens(tmp_path: Path) -> None:
    folder = write_sdar_checkpoint(tmp_path, generation_config={"eos_token_id": [9, 1]})
    assert load_model(folder, CPU, torch.float32).spec.eos_token_ids == (1, 9)


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer_config.json"])
def test_a_damaged_file_beside_the_config_is_refused_by_name(tmp_path: Path, name: str) -> None:
    folder = write_sdar_checkpoint(tmp_path)
    (folder / name).write_text("{")
    assert f"{folder / name} is not valid JSON" in refusal(folder)


def test_the_block_length_of_the_mask_can_be_overruled(tmp_path: Path) -> None:
    folder = write_sdar_checkpoint(tmp_path)
    assert build_model(folder).spec.block_length == 8
    model = load_model(folder, CPU, torch.float32, mask_block_length=16)
    assert model.spec.block_length == 16


def test_a_bidirectional_model_has_no_block_length_to_overrule(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    with pytest.raises(ConfigError, match=r"mask_block_length=16 .* LLaDAModelLM is bidirectional"):
        build_model(folder, mask_block_length=16)


def test_a_block_length_that_no_file_says_is_assumed_aloud(tmp_path: Path) -> None:
    config = {name: value for name, value in sdar_config().items() if name != "block_size"}
    folder = write_sdar_checkpoint(tmp_path, config)
    with pytest.warns(UserWarning, match="no file of .* says the block length .* taking 4"):
        assert build_model(folder).spec.block_length == 4
    # A warning would be an error here.
    assert build_model(folder, mask_block_length=16).spec.block_length == 16
    assert build_model(write_sdar_checkpoint(tmp_path / "said")).spec.block_length == 8
