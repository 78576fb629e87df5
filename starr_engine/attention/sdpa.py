"""Attention through torch's ``scaled_dot_product_attention``, on CPU and CUDA.

Letters as in ``attention/base.py``; B requests of one call, Q query rows and L read rows of each.

Requests keep their own calls instead of being padded into one masked call: on a CPU the kernel's
time dwarfs the call, padding costs real arithmetic, and a request's result does not depend on
which other requests share its batch. Neighbours of equal lengths do share a call, since that
needs no copy and leaves every result as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from starr_engine.attention.base import AttentionMetadata, AttentionShape


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """Neighbouring requests of equal lengths and kind."""

    num_requests: int
    query_rows: slice
    """Of the step's flat rows."""

    read_rows: slice
    """Of the flat rows if fresh, else of the gathered slots."""

    fresh: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SdpaStep:
    """One step of :class:`SdpaAttention`."""

    calls: tuple[_Call, ...]
    read_slots: Tensor | None
    """[S] int64; None if every request is fresh."""

    grouped: bool
    """Whether query heads share key/value heads."""

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, k_cache: Tensor, v_cache: Tensor
    ) -> Tensor:
        """See ``StepAttention``."""
        paged_key = paged_value = None
        if self.read_slots is not None:
            paged_key = k_cache.flatten(0, 1).index_select(0, self.read_slots)
            paged_value = v_cache.flatten(0, 1).index_select(0, self.read_slots)
        out = torch.empty_like(query)
        for call in self.calls:
            keys, values = (key, value) if call.fresh else (paged_key, paged_value)
            assert keys is not None
            assert values is not None
            size = call.num_requests
            mixed = scaled_dot_product_attention(
                _by_head(query[call.query_rows], size),
                _by_head(keys[call.read_rows], size),
                _by_head(values[call.read_rows], size),
                enable_gqa=self.grouped,
            )
            _by_head(out[call.query_rows], size).copy_(mixed)
        return out


class SdpaAttention:
    """Gathers the slots that are read, then one call per run of equally long requests."""

    name: ClassVar[str] = "sdpa"

    def __init__(self, shape: AttentionShape) -> None:
        self._grouped = shape.num_heads != shape.num_kv_heads

    @classmethod
    def unsupported(cls, shape: AttentionShape) -> list[str]:
        """Only devices that are not tested."""
        if shape.device.type in ("cpu", "cuda"):
            return []
        return [f"device must be cpu or cuda, got {shape.device.type}"]

    def plan(self, metadata: AttentionMetadata) -> SdpaStep:
        """Find the runs of neighbours that can share a call."""
        calls: list[_Call] = []
        first_row = first_slot = 0
        requests = zip(metadata.query_lens, metadata.read_lens, metadata.fresh, strict=True)
        for (query_len, read_len, fresh), run in groupby(requests):
            size = sum(1 for _ in run)
            query_rows = slice(first_row, first_row + size * query_len)
            read_rows = query_rows if fresh else slice(first_slot, first_slot + size * read_len)
            first_row = query_rows.stop
            if not fresh:
                first_slot = read_rows.stop
            if query_len:
                calls.append(
                    _Call(
                        num_requests=size,
                        query_rows=query_rows,
                        read_rows=read_rows,
                        fresh=fresh,
                    )
                )
        return SdpaStep(
            calls=tuple(calls),
            read_slots=metadata.read_slots if first_slot else None,
            grouped=self._grouped,
        )


def _by_head(rows: Tensor, num_requests: int) -> Tensor:
    """[B * Q, N, D] -> [B, N, Q, D], a view."""
    size, num_heads, head_dim = rows.shape
    return rows.view(num_requests, size // num_requests, num_heads, head_dim).transpose(1, 2)
