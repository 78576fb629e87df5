"""Dream on flat rows against transformers' Qwen2 without a causal mask, and a numpy twin."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from starr_engine.models.base import DiffusionModel
from starr_engine.models.loading.loader import load_model
from tests.helpers.devices import DEVICES
from tests.helpers.dream_checkpoints import (
    MASK_TOKEN_ID,
    dream_config,
    dream_tensors,
    dream_twin,
    write_dream_checkpoint,
)
from tests.helpers.qwen2_twin import Qwen2Twin

# Float32 sums of up to 80 products of order 1, over 2 layers.
TOLERANCE = 1e-5

CPU = torch.device("cpu")

VARIANTS: dict[str, dict[str, Any]] = {
    "published": {},
    "tied": {"tie_word_embeddings": True},
    "one key/value head": {"num_key_value_heads": 1},
    "small rope base, large eps": {"rope_theta": 100.0, "rms_norm_eps": 0.1},
}

RAGGED = [1, 33, 2, 17, 64, 1]


def some_ids(length: int, seed: int) -> list[int]:
    """Token ids, about half of them masks."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(4, 101, length)
    return [int(token) for token in np.where(rng.random(length) < 0.5, MASK_TOKEN_ID, ids)]


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention [Q, N, D] of one request, written out; every row sees every row."""
    groups = query.shape[1] // key.shape[1]
    key, value = (rows.repeat_interleave(groups, dim=1) for rows in (key, value))
    odds = (torch.einsum("qnd,lnd->nql", query, key) * query.shape[2] ** -0.5).softmax(-1)
    return torch.einsum("nql,lnd->qnd", odds, value)


def batch_logits(model: DiffusionModel, batch: Sequence[Sequence[int]]) -> list[Tensor]:
    """Logits of every request, all computed in one flat batch."""
    device = next(model.parameters()).device
    lengths = [len(ids) for ids in batch]
    bounds = [0, *accumulate(lengths)]

    def attention(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        del layer
        return torch.cat([attend(query[a:b], key[a:b], value[a:b]) for a, b in pairwise(bounds)])

    positions = torch.cat([torch.arange(length, device=device) for length in lengths])
    input_ids = torch.tensor([token for ids in batch for token in ids], device=device)
    with torch.inference_mode():
        logits = model.compute_logits(model(input_ids, positions, attention))
    return list(torch.split(logits.cpu(), lengths))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_ragged_batch_gives_the_logits_of_a_bidirectional_qwen2_and_of_the_numpy_twin(
    tmp_path: Path, variant: str, device: str
) -> None:
    config = dream_config(**VARIANTS[variant])
    folder = write_dream_checkpoint(tmp_path, config, seed=1, num_shards=2)
    model = load_model(folder, torch.device(device), torch.float32)
    qwen, twin = Qwen2Twin(config, dream_tensors(config, 1), torch.float32), dream_twin(folder)

    batch = [some_ids(length, seed) for seed, length in enumerate(RAGGED)]
    for ids, logits in zip(batch, batch_logits(model, batch), strict=True):
        torch.testing.assert_close(logits, qwen.logits(ids), rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(logits.numpy(), twin.logits(ids), rtol=0, atol=TOLERANCE)


def test_some_rows_over_kept_keys_and_values_give_their_logits_of_the_whole_sequence(
    tmp_path: Path,
) -> None:
    """What caches rest on: rows of any positions, over keys and values computed earlier."""
    folder = write_dream_checkpoint(tmp_path)
    model = load_model(folder, CPU, torch.float32)
    ids, rows = torch.tensor(some_ids(29, seed=7)), torch.tensor([3, 4, 11, 28])
    kept: dict[int, tuple[Tensor, Tensor]] = {}

    def keeping(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        kept[layer] = (key, value)
        return attend(query, key, value)

    def reusing(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        del key, value
        return attend(query, *kept[layer])

    with torch.inference_mode():
        model(ids, torch.arange(29), keeping)
        logits = model.compute_logits(model(ids[rows], rows, reusing))
    expected = dream_twin(folder).logits(ids.tolist())[rows.numpy()]
    np.testing.assert_allclose(logits.numpy(), expected, rtol=0, atol=TOLERANCE)


def test_bfloat16_is_at_most_twice_as_wrong_as_a_bfloat16_qwen2(tmp_path: Path) -> None:
    config = dream_config()
    folder = write_dream_checkpoint(tmp_path, config, seed=3)
    model = load_model(folder, CPU, torch.bfloat16)
    ids = some_ids(64, seed=3)
    rounded = {name: tensor.bfloat16() for name, tensor in dream_tensors(config, 3).items()}
    exact = Qwen2Twin(config, rounded, torch.float64).logits(ids)
    qwen = Qwen2Twin(config, rounded, torch.bfloat16).logits(ids)
    error = (batch_logits(model, [ids])[0].double() - exact).abs().max()
    assert error <= 2 * (qwen.double() - exact).abs().max()
