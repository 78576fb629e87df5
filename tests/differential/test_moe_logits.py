"""SDAR-MoE and LLaDA-MoE on flat rows against transformers' Qwen3-MoE and a numpy twin."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from starr_engine.layers.attention import LayerAttention
from starr_engine.models.base import DiffusionModel
from starr_engine.models.loading.loader import load_model
from tests.helpers.devices import DEVICES
from tests.helpers.moe_checkpoints import (
    MASK_TOKEN_ID,
    MoEReference,
    Qwen3MoeTwin,
    llada_moe_config,
    moe_tensors,
    sdar_moe_config,
    write_moe_checkpoint,
)

# Float32 sums of up to 80 products of order 1, over 2 layers.
TOLERANCE = 1e-5

CPU = torch.device("cpu")

VARIANTS: dict[str, dict[str, Any]] = {
    "sdar: a dense layer and a mixture": sdar_moe_config(),
    "sdar: mixtures only, weights as they are": sdar_moe_config(
        mlp_only_layers=[], norm_topk_prob=False
    ),
    "sdar: every second layer, tied head, biases": sdar_moe_config(
        mlp_only_layers=[], decoder_sparse_step=2, tie_word_embeddings=True, attention_bias=True
    ),
    "sdar: one expert of each row": sdar_moe_config(num_experts_per_tok=1, norm_topk_prob=False),
    "sdar: all experts, odd blocks": sdar_moe_config(num_experts_per_tok=12, block_size=5),
    "llada": llada_moe_config(),
    "llada: a dense layer, fewer key/value heads": llada_moe_config(
        moe_layer_freq=[0, 1], dense_intermediate_size=56, num_key_value_heads=2
    ),
    "llada: asked to renormalise, which it never does": llada_moe_config(norm_topk_prob=True),
}

RAGGED = [1, 33, 2, 7, 8, 9, 1]


def some_ids(length: int, seed: int) -> list[int]:
    """Token ids, about half of them masks."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(4, 101, length)
    return [int(token) for token in np.where(rng.random(length) < 0.5, MASK_TOKEN_ID, ids)]


def attention_of(model: DiffusionModel, lengths: Sequence[int]) -> LayerAttention:
    """Attention among the rows of each request, written out, under the model's own mask."""
    bounds = [0, *accumulate(lengths)]

    def attention(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        del layer
        groups = query.shape[1] // key.shape[1]
        key, value = (rows.repeat_interleave(groups, dim=1) for rows in (key, value))
        mixed = []
        for start, end in pairwise(bounds):
            scores = torch.einsum("qnd,lnd->nql", query[start:end], key[start:end])
            block = torch.arange(end - start, device=query.device)
            block = block // (model.spec.block_length or end - start)
            scores = scores.float() * query.shape[2] ** -0.5
            odds = scores.masked_fill(block[None, :] > block[:, None], -torch.inf).softmax(-1)
            mixed.append(torch.einsum("nql,lnd->qnd", odds.to(value.dtype), value[start:end]))
        return torch.cat(mixed)

    return attention


def batch_logits(model: DiffusionModel, batch: Sequence[Sequence[int]]) -> list[Tensor]:
    """Logits of every request, all computed in one flat batch."""
    device = next(model.parameters()).device
    lengths = [len(ids) for ids in batch]
    input_ids = torch.tensor([token for ids in batch for token in ids], device=device)
    positions = torch.cat([torch.arange(length, device=device) for length in lengths])
    with torch.inference_mode():
        hidden = model(input_ids, positions, attention_of(model, lengths))
        return list(torch.split(model.compute_logits(hidden).cpu(), lengths))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_ragged_batch_gives_the_logits_of_both_twins(
    tmp_path: Path, variant: str, device: str
) -> None:
    config = VARIANTS[variant]
    tensors = moe_tensors(config, seed=1)
    folder = write_moe_checkpoint(tmp_path, config, tensors)
    model = load_model(folder, torch.device(device), torch.float32)
    qwen = Qwen3MoeTwin(config, tensors, torch.float32)
    twin = MoEReference.from_folder(folder, config)

    batch = [some_ids(length, seed) for seed, length in enumerate(RAGGED)]
    for ids, logits in zip(batch, batch_logits(model, batch), strict=True):
        torch.testing.assert_close(logits, qwen.logits(ids), rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(logits.numpy(), twin.logits(ids), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("config", [sdar_moe_config(), llada_moe_config()])
def test_bfloat16_is_at_most_twice_as_wrong_as_a_bfloat16_qwen3_moe(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    tensors = {name: t.bfloat16().float() for name, t in moe_tensors(config, seed=3).items()}
    folder = write_moe_checkpoint(tmp_path, config, tensors)
    model = load_model(folder, CPU, torch.bfloat16)
    ids = some_ids(64, seed=3)
    exact = torch.from_numpy(MoEReference.from_folder(folder, config).logits(ids))
    error = (batch_logits(model, [ids])[0].double() - exact).abs()
    qwen = (Qwen3MoeTwin(config, tensors, torch.bfloat16).logits(ids).double() - exact).abs()
    # The mean, because a row whose last expert is a close call may get another one in either.
    assert error.mean() <= 2 * qwen.mean()
