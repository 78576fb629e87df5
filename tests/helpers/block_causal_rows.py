"""A block-causal model over the flat rows of several requests, with attention written out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from starr_engine.layers.attention import LayerAttention
from starr_engine.models.base import DiffusionModel


def attend(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    """Attention [Q, N, D] of one request, written out; ``visible`` is [Q, L]."""
    groups = query.shape[1] // key.shape[1]
    key, value = (rows.repeat_interleave(groups, dim=1) for rows in (key, value))
    scores = torch.einsum("qnd,lnd->nql", query, key) * query.shape[2] ** -0.5
    odds = scores.float().masked_fill(~visible, -torch.inf).softmax(-1).to(value.dtype)
    return torch.einsum("nql,lnd->qnd", odds, value)


def block_causal_attention(positions: Sequence[Tensor], block_length: int) -> LayerAttention:
    """Attention among the rows of each request, whose positions are given."""
    bounds = [0, *accumulate(len(where) for where in positions)]
    blocks = [where // block_length for where in positions]
    visible = [block[None, :] <= block[:, None] for block in blocks]

    def attention(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        del layer
        return torch.cat(
            [
                attend(query[a:b], key[a:b], value[a:b], seen)
                for (a, b), seen in zip(pairwise(bounds), visible, strict=True)
            ]
        )

    return attention


def batch_logits(model: DiffusionModel, batch: Sequence[Sequence[int]]) -> list[Tensor]:
    """Logits of every request, all computed in one flat batch."""
    device = next(model.parameters()).device
    lengths = [len(ids) for ids in batch]
    positions = [torch.arange(length, device=device) for length in lengths]
    assert model.spec.block_length is not None
    attention = block_causal_attention(positions, model.spec.block_length)
    input_ids = torch.tensor([token for ids in batch for token in ids], device=device)
    with torch.inference_mode():
        logits = model.compute_logits(model(input_ids, torch.cat(positions), attention))
    return list(torch.split(logits.cpu(), lengths))
