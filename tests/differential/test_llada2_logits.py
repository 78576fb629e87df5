"""LLaDA2 on flat rows against a numpy twin that asks one expert after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from starr_engine.models.loading.loader import load_model
from tests.helpers.block_causal_rows import attend, batch_logits
from tests.helpers.llada2_checkpoints import (
    BLOCK_LENGTH,
    MASK_TOKEN_ID,
    llada2_config,
    llada2_tensors,
    write_llada2_checkpoint,
)
from tests.helpers.llada2_reference import LLaDA2Reference

# Float32 sums of up to 80 products of order 1, over 3 layers, with experts weighing 2.5 together.
TOLERANCE = 2e-5

CPU = torch.device("cpu")

VARIANTS: dict[str, dict[str, Any]] = {
    "published": {},
    "tied, with biases": {"tie_word_embeddings": True, "use_bias": True, "use_qkv_bias": True},
    "no norm of queries and keys": {"use_qk_norm": False},
    "whole heads turn": {"partial_rotary_factor": 1.0, "rotary_dim": None},
    "no dense layer, one group": {"first_k_dense_replace": 0, "n_group": 1, "topk_group": 1},
    "one expert, two shared": {"num_experts_per_tok": 1, "num_shared_experts": 2},
    "blocks of an odd length": {"block_length": 5, "rope_theta": 100.0, "rms_norm_eps": 0.1},
}

RAGGED = [1, 33, 2, BLOCK_LENGTH - 1, BLOCK_LENGTH, BLOCK_LENGTH + 1, 47, 1]
"""Odd lengths, and those around the end of a block."""


def some_ids(length: int, seed: int) -> list[int]:
    """Token ids, about half of them masks."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(4, 101, length)
    return [int(token) for token in np.where(rng.random(length) < 0.5, MASK_TOKEN_ID, ids)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_ragged_batch_gives_the_logits_of_the_numpy_twin(tmp_path: Path, variant: str) -> None:
    config = llada2_config(**VARIANTS[variant])
    folder = write_llada2_checkpoint(tmp_path, config, seed=2, num_shards=2)
    model = load_model(folder, CPU, torch.float32)
    twin = LLaDA2Reference.from_folder(folder, config)

    batch = [some_ids(length, seed) for seed, length in enumerate(RAGGED)]
    for ids, logits in zip(batch, batch_logits(model, batch), strict=True):
        np.testing.assert_allclose(logits.numpy(), twin.logits(ids), rtol=0, atol=TOLERANCE)


def test_a_block_over_kept_keys_and_values_gives_the_logits_of_the_whole_sequence(
    tmp_path: Path,
) -> None:
    """What makes a cache of finished blocks exact: block by block, nothing computed twice."""
    config = llada2_config()
    folder = write_llada2_checkpoint(tmp_path, config)
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
    expected = LLaDA2Reference.from_folder(folder, config).logits(ids)
    np.testing.assert_allclose(torch.cat(logits).numpy(), expected, rtol=0, atol=TOLERANCE)


def test_the_bias_of_an_expert_decides_who_is_asked_but_not_how_much_it_counts(
    tmp_path: Path,
) -> None:
    config = llada2_config()
    tensors = llada2_tensors(config, seed=5)
    ids = some_ids(9, seed=8)
    found = []
    for number, shift in enumerate((0.0, 3.0)):  # the same for all experts: the same choice
        for name in tensors:
            if name.endswith("expert_bias"):
                tensors[name] = tensors[name] + shift
        folder = write_llada2_checkpoint(tmp_path / str(number), config, tensors)
        found.append(batch_logits(load_model(folder, CPU, torch.float32), [ids])[0])
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=TOLERANCE)


def test_bfloat16_is_close_to_float32(tmp_path: Path) -> None:
    """The router computes in float32, so that rounding seldom changes who is asked."""
    config = llada2_config()
    tensors = {
        name: tensor if name.endswith("expert_bias") else tensor.bfloat16().float()
        for name, tensor in llada2_tensors(config, seed=3).items()
    }
    folder = write_llada2_checkpoint(tmp_path, config, tensors)
    ids = some_ids(40, seed=3)
    exact = LLaDA2Reference.from_folder(folder, config).logits(ids)
    model = load_model(folder, CPU, torch.bfloat16)
    rounded = batch_logits(model, [ids])[0].double().numpy()
    # A row that asked another expert is far off; all others are within bfloat16's 2^-8.
    error = np.abs(rounded - exact).max(axis=1) / np.abs(exact).max(axis=1)
    assert np.quantile(error, 0.8) < 0.05
    kept = {name for name, weight in model.named_parameters() if weight.dtype is torch.float32}
    assert kept == {f"model.layers.{index}.mlp.gate.expert_bias" for index in (1, 2)}
