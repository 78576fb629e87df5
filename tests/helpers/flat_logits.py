"""A model's logits of several requests in one flat batch, through attention written out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from starr_engine.models.base import DiffusionModel
from tests.helpers.made import Visible


def attend(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    """Attention [Q, N, D] of one request; ``visible`` is [Q, L]."""
    groups = query.shape[1] // key.shape[1]
    key, value = (rows.repeat_interleave(groups, dim=1) for rows in (key, value))
    scores = torch.einsum("qnd,lnd->nql", query, key) * query.shape[2] ** -0.5
    odds = scores.masked_fill(~visible, -torch.inf).softmax(-1)
    return torch.einsum("nql,lnd->qnd", odds, value)


def batch_logits(
    model: DiffusionModel,
    batch: Sequence[Sequence[int]],
    visible_of: Callable[[int], Visible],
) -> list[Tensor]:
    """Logits of every request, all computed in one flat batch."""
    lengths = [len(ids) for ids in batch]
    bounds = [0, *accumulate(lengths)]
    masks = [torch.from_numpy(visible_of(length)) for length in lengths]

    def attention(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        del layer
        pieces = zip(pairwise(bounds), masks, strict=True)
        return torch.cat([attend(query[a:b], key[a:b], value[a:b], m) for (a, b), m in pieces])

    positions = torch.cat([torch.arange(length) for length in lengths])
    input_ids = torch.tensor([token for ids in batch for token in ids])
    with torch.inference_mode():
        logits = model.compute_logits(model(input_ids, positions, attention))
    return list(torch.split(logits, lengths))
