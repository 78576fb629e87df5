"""Attention written out plainly: the oracle for every other backend.

Letters as in ``attention/base.py``; Q query rows and L read rows of one request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from starr_engine.attention.base import AttentionMetadata, AttentionShape


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceStep:
    """One step of :class:`ReferenceAttention`."""

    metadata: AttentionMetadata

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, k_cache: Tensor, v_cache: Tensor
    ) -> Tensor:
        """See ``StepAttention``."""
        meta = self.metadata
        out = torch.empty_like(query)
        first_row = first_slot = 0
        for query_len, read_len, fresh in zip(
            meta.query_lens, meta.read_lens, meta.fresh, strict=True
        ):
            rows = slice(first_row, first_row + query_len)
            if fresh:
                keys, values = key[rows], value[rows]
            else:
                slots = meta.read_slots[first_slot : first_slot + read_len]
                keys, values = k_cache.flatten(0, 1)[slots], v_cache.flatten(0, 1)[slots]
                first_slot += read_len
            out[rows] = plain_attention(query[rows], keys, values).to(query.dtype)
            first_row += query_len
        return out


class ReferenceAttention:
    """Softmax attention in float64, one request at a time."""

    name: ClassVar[str] = "reference"

    def __init__(self, shape: AttentionShape) -> None:
        del shape

    @classmethod
    def unsupported(cls, shape: AttentionShape) -> list[str]:
        """It serves every shape."""
        del shape
        return []

    def plan(self, metadata: AttentionMetadata) -> ReferenceStep:
        """Nothing is prepared."""
        return ReferenceStep(metadata=metadata)


def plain_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Every query attends to every key.

    Args:
        query: [Q, N, D].
        key: [L, K, D]; query head n reads key/value head ``n // (N / K)``.
        value: [L, K, D].

    Returns:
        [Q, N, D] float64.
    """
    group = query.shape[1] // key.shape[1]
    wide_query = query.double()
    wide_key = key.double().repeat_interleave(group, dim=1)
    wide_value = value.double().repeat_interleave(group, dim=1)
    scores = torch.einsum("qnd,lnd->nql", wide_query, wide_key) / query.shape[-1] ** 0.5
    weights = torch.exp(scores - scores.amax(dim=-1, keepdim=True))
    weights = weights / weights.sum(dim=-1, keepdim=True)
    return torch.einsum("nql,lnd->qnd", weights, wide_value)
