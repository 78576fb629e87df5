"""Attention through torch's ``scaled_dot_product_attention``, on CPU and CUDA.

Letters as in ``attention/base.py``; B requests of one call, Q query rows and L read rows of each.

Requests keep their own calls instead of being padded into one masked call: on a CPU the kernel's
time dwarfs the call, padding costs real arithmetic, and a request's result does not depend on
which other requests share its batch. Neighbours of equal lengths do share a call, since that
needs no copy and leaves every result as it is.

On a CPU a request whose slots happen to be consecutive, as those of fresh pages mostly are, is
read where it lies; the others are gathered first.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from starr_engine import ops
from starr_engine.attention.base import AttentionMetadata, AttentionShape


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """Neighbouring requests of equal lengths and kind."""

    num_requests: int
    fresh: bool

    slots: slice | None = None
    """Where its rows lie in the cache, if they need no gathering."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SdpaStep:
    """One step of :class:`SdpaAttention`."""

    calls: tuple[_Call, ...]
    query_sizes: tuple[int, ...]
    """Flat rows of each call."""

    gathered_sizes: tuple[int, ...]
    """Slots of each call that is neither fresh nor read in place."""

    gathered_slots: Tensor
    """[sum of ``gathered_sizes``] int64"""

    grouped: bool
    """Whether query heads share key/value heads."""

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, k_cache: Tensor, v_cache: Tensor
    ) -> Tensor:
        """See ``StepAttention``."""
        out = torch.empty_like(query)
        gathered_key = gathered_value = key[:0]
        if self.gathered_sizes:
            gathered_key, gathered_value = ops.gather_kv(k_cache, v_cache, self.gathered_slots)
        pieces = zip(
            self.calls,
            _split(query, self.query_sizes),
            self._read(key, k_cache, gathered_key),
            self._read(value, v_cache, gathered_value),
            _split(out, self.query_sizes),
            strict=True,
        )
        for call, queries, keys, values, outputs in pieces:
            size = call.num_requests
            mixed = scaled_dot_product_attention(
                _by_request(queries, size),
                _by_request(keys, size),
                _by_request(values, size),
                enable_gqa=self.grouped,
            )
            _by_request(outputs, size).copy_(mixed)
        return out

    def _read(self, rows: Tensor, cache: Tensor, gathered: Tensor) -> list[Tensor]:
        """What each call reads, [1, N, size, D]: its own flat rows if fresh, else its slots."""
        own = _split(rows, self.query_sizes)
        copies = iter(_split(gathered, self.gathered_sizes))
        stored = cache.flatten(0, 1).transpose(0, 1).unsqueeze(0)
        return [
            piece
            if call.fresh
            else next(copies)
            if call.slots is None
            else stored[:, :, call.slots]
            for call, piece in zip(self.calls, own, strict=True)
        ]


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
        """Find the rows that can be read in place, and the neighbours that can share a call."""
        calls: list[_Call] = []
        query_sizes: list[int] = []
        gathered: list[slice] = []
        first_slots = _first_slots(metadata)
        requests = zip(
            metadata.query_lens, metadata.read_lens, metadata.fresh, first_slots, strict=True
        )
        first_read = 0
        for (query_len, read_len, fresh, first_slot), run in groupby(requests):
            size = sum(1 for _ in run)
            in_place = None if first_slot is None else slice(first_slot, first_slot + read_len)
            calls.append(_Call(num_requests=size, fresh=fresh, slots=in_place))
            query_sizes.append(size * query_len)
            num_read = 0 if fresh else size * read_len
            if not fresh and in_place is None:
                gathered.append(slice(first_read, first_read + num_read))
            first_read += num_read
        pieces = [metadata.read_slots[rows] for rows in gathered]
        return SdpaStep(
            calls=tuple(calls),
            query_sizes=tuple(query_sizes),
            gathered_sizes=tuple(rows.stop - rows.start for rows in gathered),
            gathered_slots=torch.cat(pieces) if pieces else metadata.read_slots[:0],
            grouped=self._grouped,
        )


def _first_slots(metadata: AttentionMetadata) -> list[int | None]:
    """First slot of each request whose slots are consecutive; None for the others.

    Two requests never share a first slot, so requests read in place keep calls of their own.
    """
    if metadata.read_slots.device.type != "cpu":
        return [None] * len(metadata.fresh)  # looking at the values would stall the device
    slots, bounds = metadata.read_slots.numpy(), metadata.cu_read.tolist()
    jumps = np.concatenate([[0], np.cumsum(np.diff(slots) != 1)])  # up to and with each row
    return [
        int(slots[start]) if start < stop and jumps[stop - 1] == jumps[start] else None
        for start, stop in pairwise(bounds)
    ]


def _split(rows: Tensor, sizes: tuple[int, ...]) -> tuple[Tensor, ...]:
    """[T, N, D] -> views [1, N, size, D]; one call, because slicing each costs more."""
    return torch.split(rows.transpose(0, 1).unsqueeze(0), list(sizes), dim=2)


def _by_request(piece: Tensor, num_requests: int) -> Tensor:
    """[1, N, B * Q, D] -> [B, N, Q, D], a view."""
    if num_requests == 1:
        return piece
    _, num_heads, size, head_dim = piece.shape
    return piece.view(num_heads, num_requests, size // num_requests, head_dim).transpose(0, 1)
