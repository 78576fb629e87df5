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
        for query_len, read_len, fresh, shadow_len, column in zip(
            meta.query_lens,
            meta.read_lens,
            meta.fresh,
            meta.shadow_lens,
            meta.shadow_columns,
            strict=True,
        ):
            rows = slice(first_row, first_row + query_len)
            shadows = slice(rows.stop - shadow_len, rows.stop)
            if fresh:
                keys, values = key[rows], value[rows]
            else:
                slots = meta.read_slots[first_slot : first_slot + read_len]
                keys = torch.cat([k_cache.flatten(0, 1)[slots], key[shadows]])
                values = torch.cat([v_cache.flatten(0, 1)[slots], value[shadows]])
                first_slot += read_len
            visible = shadow_visibility(query_len, read_len, shadow_len, column).to(key.device)
            own = slice(rows.start, shadows.start)
            reach = torch.arange(read_len, device=key.device)
            visible[: query_len - shadow_len, :read_len] = reach < meta.visible[own, None]
            out[rows] = plain_attention(query[rows], keys, values, visible).to(query.dtype)
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

    @classmethod
    def remarks(cls, shape: AttentionShape) -> list[str]:
        """It is slow everywhere."""
        del shape
        return ["computes in float64, one request at a time: for tests"]

    def plan(self, metadata: AttentionMetadata) -> ReferenceStep:
        """Nothing is prepared."""
        return ReferenceStep(metadata=metadata)


def shadow_visibility(query_len: int, read_len: int, shadow_len: int, column: int) -> Tensor:
    """Which rows of a request see which under no mask but the shadow rows', these last.

    Returns:
        bool [query_len, read_len + shadow_len].
    """
    visible = torch.ones(query_len, read_len + shadow_len, dtype=torch.bool)
    visible[: query_len - shadow_len, read_len:] = False
    for shadow in range(shadow_len):
        visible[query_len - shadow_len + shadow, column + shadow] = False
    return visible


def plain_attention(
    query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None = None
) -> Tensor:
    """Every query attends to every key that is visible to it.

    Args:
        query: [Q, N, D].
        key: [L, K, D]; query head n reads key/value head ``n // (N / K)``.
        value: [L, K, D].
        visible: [Q, L] bool, true somewhere in every row; None shows all.

    Returns:
        [Q, N, D] float64.
    """
    group = query.shape[1] // key.shape[1]
    wide_query = query.double()
    wide_key = key.double().repeat_interleave(group, dim=1)
    wide_value = value.double().repeat_interleave(group, dim=1)
    scores = torch.einsum("qnd,lnd->nql", wide_query, wide_key) / query.shape[-1] ** 0.5
    if visible is not None:
        scores = scores.masked_fill(~visible, -torch.inf)
    weights = torch.exp(scores - scores.amax(dim=-1, keepdim=True))
    weights = weights / weights.sum(dim=-1, keepdim=True)
    return torch.einsum("nql,lnd->qnd", weights, wide_value)
