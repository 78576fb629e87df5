"""SDAR on flat rows against transformers' Qwen3, against a numpy twin, and against itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from starr_engine.models.loading.loader import load_model
from starr_engine.models.loading.locate import resolve_model
from tests.helpers.block_causal_rows import attend, batch_logits, block_causal_attention
from tests.helpers.devices import DEVICES
from tests.helpers.qwen3_twin import Qwen3Twin
from tests.helpers.sdar_checkpoints import (
    BLOCK_LENGTH,
    MASK_TOKEN_ID,
    sdar_config,
    sdar_tensors,
    write_sdar_checkpoint,
)
from tests.helpers.sdar_reference import SDARReference
from tests.helpers.shipped import shipped_of

# Float32 sums of up to 80 products of order 1, over 2 layers.
TOLERANCE = 1e-5

CPU = torch.device("cpu")

VARIANTS: dict[str, dict[str, Any]] = {
    "untied": {},
    "tied": {"tie_word_embeddings": True},
    "as many key/value heads as queries": {"num_key_value_heads": 4},
    "one key/value head": {"num_key_value_heads": 1},
    "biases": {"attention_bias": True},
    "tied with biases": {"attention_bias": True, "tie_word_embeddings": True},
    "small rope base, large eps": {"rope_theta": 100.0, "rms_norm_eps": 0.1},
    "blocks of one row": {"block_size": 1},
    "blocks of an odd length": {"block_size": 5},
    "one block for all rows": {"block_size": 200},
}

RAGGED = [1, 33, 2, BLOCK_LENGTH - 1, BLOCK_LENGTH, BLOCK_LENGTH + 1, 64, 1]
"""Odd lengths, and those around the end of a block."""


def some_ids(length: int, seed: int) -> list[int]:
    """Token ids, about half of them masks."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(4, 101, length)
    return [int(token) for token in np.where(rng.random(length) < 0.5, MASK_TOKEN_ID, ids)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_ragged_batch_gives_the_logits_of_a_block_causal_qwen3(
    tmp_path: Path, variant: str, device: str
) -> None:
    config = sdar_config(**VARIANTS[variant])
    tensors = sdar_tensors(config, seed=1)
    folder = write_sdar_checkpoint(tmp_path, config, tensors)
    model = load_model(folder, torch.device(device), torch.float32)
    qwen = Qwen3Twin(config, tensors, torch.float32)

    batch = [some_ids(length, seed) for seed, length in enumerate(RAGGED)]
    for ids, logits in zip(batch, batch_logits(model, batch), strict=True):
        torch.testing.assert_close(logits, qwen.logits(ids), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_ragged_batch_gives_the_logits_of_the_numpy_twin(tmp_path: Path, variant: str) -> None:
    config = sdar_config(**VARIANTS[variant])
    folder = write_sdar_checkpoint(tmp_path, config, seed=2)
    model = load_model(folder, CPU, torch.float32)
    twin = SDARReference.from_folder(folder, config)

    batch = [some_ids(length, seed) for seed, length in enumerate(RAGGED)]
    for ids, logits in zip(batch, batch_logits(model, batch), strict=True):
        np.testing.assert_allclose(logits.numpy(), twin.logits(ids), rtol=0, atol=TOLERANCE)


def test_bfloat16_is_at_most_twice_as_wrong_as_a_bfloat16_qwen3(tmp_path: Path) -> None:
    config = sdar_config()
    tensors = {name: t.bfloat16().float() for name, t in sdar_tensors(config, seed=3).items()}
    folder = write_sdar_checkpoint(tmp_path, config, tensors)
    model = load_model(folder, CPU, torch.bfloat16)
    ids = some_ids(64, seed=3)
    exact = torch.from_numpy(SDARReference.from_folder(folder, config).logits(ids))

    error = (batch_logits(model, [ids])[0].double() - exact).abs().max()
    qwen = Qwen3Twin(config, tensors, torch.bfloat16).logits(ids)
    assert error <= 2 * (qwen.double() - exact).abs().max()


def test_rows_see_no_later_block_and_all_of_their_own(tmp_path: Path) -> None:
    model = load_model(write_sdar_checkpoint(tmp_path), CPU, torch.float32)
    ids = some_ids(3 * BLOCK_LENGTH, seed=4)
    changed = 2 * BLOCK_LENGTH - 1  # the last row of the second block
    other = [*ids[:changed], 50 if ids[changed] != 50 else 51, *ids[changed + 1 :]]
    before, after = batch_logits(model, [ids])[0], batch_logits(model, [other])[0]
    differs = (before != after).any(dim=1)
    assert differs.tolist() == [False] * BLOCK_LENGTH + [True] * 2 * BLOCK_LENGTH


def test_rows_in_another_order_give_the_same_logits_in_that_order(tmp_path: Path) -> None:
    """Positions say where a row is; its place in the batch says nothing."""
    model = load_model(write_sdar_checkpoint(tmp_path), CPU, torch.float32)
    ids, order = torch.tensor(some_ids(17, seed=5)), torch.randperm(17)
    positions = torch.arange(17)
    with torch.inference_mode():
        ordered = model(ids, positions, block_causal_attention([positions], BLOCK_LENGTH))
        shuffled = model(
            ids[order], positions[order], block_causal_attention([positions[order]], BLOCK_LENGTH)
        )
    torch.testing.assert_close(shuffled, ordered[order], rtol=0, atol=TOLERANCE)
    assert (shuffled - ordered).abs().max() > 0.1


def test_positions_up_to_the_last_one_follow_the_numpy_twin(tmp_path: Path) -> None:
    config = sdar_config()
    folder = write_sdar_checkpoint(tmp_path, config)
    model = load_model(folder, CPU, torch.float32)
    ids, positions = some_ids(4, seed=6), [159, 3, 80, 0]
    where = torch.tensor(positions)
    with torch.inference_mode():
        hidden = model(torch.tensor(ids), where, block_causal_attention([where], BLOCK_LENGTH))
        logits = model.compute_logits(hidden)
    expected = SDARReference.from_folder(folder, config).logits(ids, positions)
    np.testing.assert_allclose(logits.numpy(), expected, rtol=0, atol=TOLERANCE)


def test_a_block_over_kept_keys_and_values_gives_the_logits_of_the_whole_sequence(
    tmp_path: Path,
) -> None:
    """What makes a cache of finished blocks exact: block by block, nothing computed twice."""
    config = sdar_config()
    folder = write_sdar_checkpoint(tmp_path, config)
    model = load_model(folder, CPU, torch.float32)
    ids = some_ids(29, seed=7)
    kept: dict[int, tuple[Tensor, Tensor]] = {}

    def attention(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if layer in kept:
            key, value = (torch.cat(pair) for pair in zip(kept[layer], (key, value), strict=True))
        kept[layer] = (key, value)
        return attend(query, key, value, torch.ones(len(query), len(key), dtype=torch.bool))

    logits = []
    with torch.inference_mode():
        for start in range(0, len(ids), BLOCK_LENGTH):
            block = torch.tensor(ids[start : start + BLOCK_LENGTH])
            positions = torch.arange(start, start + len(block))
            logits.append(model.compute_logits(model(block, positions, attention)))
    expected = SDARReference.from_folder(folder, config).logits(ids)
    np.testing.assert_allclose(torch.cat(logits).numpy(), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    "name", shipped_of("SDARForCausalLM") or [pytest.param("", marks=pytest.mark.skip)]
)
def test_a_shipped_model_is_at_most_twice_as_wrong_as_a_float32_qwen3(name: str) -> None:
    """Trained attention is sharp, so that rounding shows more than with random weights."""
    folder = resolve_model(name)
    model = load_model(folder, CPU, torch.float32)
    config = json.loads((folder / "config.json").read_text())
    config["block_size"] = model.spec.block_length
    tensors = {key: t.float() for key, t in load_file(folder / "model.safetensors").items()}
    twin = SDARReference.from_folder(folder, config)
    qwen = Qwen3Twin(config, tensors, torch.float32)
    batch = [some_ids(length, seed=length) for length in (33, 100)]
    for ids, logits in zip(batch, batch_logits(model, batch), strict=True):
        exact = torch.from_numpy(twin.logits(ids))
        bound = 2 * (qwen.logits(ids).double() - exact).abs().max() + 1e-6 * exact.abs().max()
        assert (logits.double() - exact).abs().max() <= bound
