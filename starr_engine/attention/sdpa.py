"""Attention through torch's ``scaled_dot_product_attention``, on CPU and CUDA.

Letters as in ``attention/base.py``; B requests of one call, Q query rows and L read rows of each.

Requests keep their own calls instead of being padded into one masked call: on a CPU the kernel's
time dwarfs the call, padding costs real arithmetic, and a request's result does not depend on
which other requests share its batch. Neighbours of equal lengths do share a call, since that
needs no copy and leaves every result as it is; those with rows that do not see everything keep a
call and a mask of their own. Shadow rows have a second call with a mask; the other rows of their
requests are computed as if there were none.

Slots are gathered before they are read. Reading consecutive slots in place, which fresh pages
mostly allow, was tried on a CPU and gained nothing at batch 16.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar

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
    shadow_len: int

    shadow_mask: Tensor | None
    """[shadow_len, L + shadow_len] bool, what each shadow row sees; None without shadow rows."""

    mask: Tensor | None
    """[Q, L] bool, what each of the other rows sees; None if all see everything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SdpaStep:
    """One step of :class:`SdpaAttention`."""

    calls: tuple[_Call, ...]
    query_sizes: tuple[int, ...]
    """Flat rows of each call."""

    gathered_sizes: tuple[int, ...]
    """Slots that each call reads which is not fresh."""

    read_slots: Tensor
    """[S] int64"""

    grouped: bool
    """Whether query heads share key/value heads."""

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, k_cache: Tensor, v_cache: Tensor
    ) -> Tensor:
        """See ``StepAttention``."""
        out = torch.empty_like(query)
        gathered_key = gathered_value = key[:0]
        if self.gathered_sizes:
            gathered_key, gathered_value = ops.gather_kv(k_cache, v_cache, self.read_slots)
        pieces = zip(
            self.calls,
            _split(query, self.query_sizes),
            self._read(key, gathered_key),
            self._read(value, gathered_value),
            _split(out, self.query_sizes),
            strict=True,
        )
        for call, queries, keys, values, outputs in pieces:
            queries = _by_request(queries, call.num_requests)
            outputs = _by_request(outputs, call.num_requests)
            if call.shadow_mask is not None:
                shadow = scaled_dot_product_attention(
                    queries[..., -call.shadow_len :, :],
                    keys,
                    values,
                    attn_mask=call.shadow_mask,
                    enable_gqa=self.grouped,
                )
                outputs[..., -call.shadow_len :, :].copy_(shadow)
                queries, keys, values, outputs = (
                    rows[..., : -call.shadow_len, :] for rows in (queries, keys, values, outputs)
                )
            mixed = scaled_dot_product_attention(
                queries, keys, values, attn_mask=call.mask, enable_gqa=self.grouped
            )
            outputs.copy_(mixed)
        return out

    def _read(self, rows: Tensor, gathered: Tensor) -> list[Tensor]:
        """What each call reads, [B, N, L, D], shadow rows last.

        These are its own flat rows if it is fresh, else its slots and its own shadow rows.
        """
        copies = iter(_split(gathered, self.gathered_sizes))
        pieces = []
        for call, own in zip(self.calls, _split(rows, self.query_sizes), strict=True):
            piece = _by_request(own if call.fresh else next(copies), call.num_requests)
            if call.shadow_len and not call.fresh:
                shadows = _by_request(own, call.num_requests)[..., -call.shadow_len :, :]
                piece = torch.cat([piece, shadows], dim=2)
            pieces.append(piece)
        return pieces


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
        query_sizes: list[int] = []
        gathered_sizes: list[int] = []
        requests = zip(
            metadata.query_lens,
            metadata.read_lens,
            metadata.fresh,
            metadata.shadow_lens,
            metadata.shadow_columns,
            # Counted where a request has a mask, so that it equals no neighbour.
            (index if limited else -1 for index, limited in enumerate(metadata.limited)),
            strict=True,
        )
        first_row = 0
        device = metadata.read_slots.device
        for (query_len, read_len, fresh, shadow_len, column, limited), run in groupby(requests):
            size = sum(1 for _ in run)
            shadow_mask = mask = None
            if shadow_len:
                shadow_mask = _shadow_mask(shadow_len, read_len, column, device)
            if limited >= 0:
                reach = metadata.visible[first_row : first_row + query_len - shadow_len, None]
                mask = torch.arange(read_len, device=device) < reach
            first_row += size * query_len
            calls.append(
                _Call(
                    num_requests=size,
                    fresh=fresh,
                    shadow_len=shadow_len,
                    shadow_mask=shadow_mask,
                    mask=mask,
                )
            )
            query_sizes.append(size * query_len)
            if not fresh:
                gathered_sizes.append(size * read_len)
        return SdpaStep(
            calls=tuple(calls),
            query_sizes=tuple(query_sizes),
            gathered_sizes=tuple(gathered_sizes),
            read_slots=metadata.read_slots,
            grouped=self._grouped,
        )


def _shadow_mask(shadow_len: int, read_len: int, column: int, device: torch.device) -> Tensor:
    """All but the row shadowed: bool [shadow_len, read_len + shadow_len]."""
    hidden = column + torch.arange(shadow_len, device=device)
    return hidden[:, None] != torch.arange(read_len + shadow_len, device=device)


def _split(rows: Tensor, sizes: tuple[int, ...]) -> tuple[Tensor, ...]:
    """[T, N, D] -> views [1, N, size, D]; one call, because slicing each costs more."""
    return torch.split(rows.transpose(0, 1).unsqueeze(0), list(sizes), dim=2)


def _by_request(piece: Tensor, num_requests: int) -> Tensor:
    """[1, N, B * Q, D] -> [B, N, Q, D], a view."""
    if num_requests == 1:
        return piece
    _, num_heads, size, head_dim = piece.shape
    return piece.view(num_heads, num_requests, size // num_requests, head_dim).transpose(0, 1)
