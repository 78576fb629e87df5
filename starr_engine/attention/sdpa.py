"""Attention through torch's ``scaled_dot_product_attention``, on CPU and CUDA.

Letters as in ``attention/base.py``; B requests of one call, Q query rows and L read rows of each.

Requests keep their own calls instead of being padded into one masked call: on a CPU the kernel's
time dwarfs the call, padding costs real arithmetic, and a request's result does not depend on
which other requests share its batch. Neighbours of equal lengths do share a call, since that
needs no copy and leaves every result as it is; those with rows that do not see everything keep a
call and a mask of their own. Shadow rows have a second call with a mask; the other rows of their
requests are computed as if there were none.

Slots are gathered before they are read, but on a CPU those of a call of few rows whose requests
each read consecutive slots, evenly spaced, are read in place: new pages mostly allow it, and the
values and their order are the same. Where the slots lie is known without a wait on the CPU only.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar, Final

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from starr_engine import ops
from starr_engine.attention.base import AttentionMetadata, AttentionShape
from starr_engine.attention.fixed import FixedLayout, PaddedAttention
from starr_engine.attention.slot_runs import SlotRun, first_slots, split_evenly

_IN_PLACE_ROWS: Final = 128
"""Most query rows of a request that reads in place: keys read more often are better laid together
first (``benchmarks/bench_attention.py``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """Neighbouring requests of equal lengths and kind."""

    num_requests: int
    fresh: bool
    shadow_len: int

    read_len: int
    """L, without shadow rows."""

    shadow_mask: Tensor | None
    """[shadow_len, L + shadow_len], added to the scores of the shadow rows; None without any."""

    mask: Tensor | None
    """[Q, L], added to the scores of the other rows; None if all see everything."""

    in_place: SlotRun | None
    """Slots that are read where they are; None if they are gathered, or the call is fresh."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SdpaStep:
    """One step of :class:`SdpaAttention`."""

    calls: tuple[_Call, ...]
    query_sizes: tuple[int, ...]
    """Flat rows of each call."""

    gathered_sizes: tuple[int, ...]
    """Slots of each call that reads slots, but not in place."""

    gathered_slots: Tensor
    """[G] int64, theirs."""

    grouped: bool
    """Whether query heads share key/value heads."""

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, k_cache: Tensor, v_cache: Tensor
    ) -> Tensor:
        """See ``StepAttention``."""
        gathered_key = gathered_value = key[:0]
        if self.gathered_sizes:
            gathered_key, gathered_value = ops.gather_kv(k_cache, v_cache, self.gathered_slots)
        queries = _split(query, self.query_sizes)
        read_keys = self._read(key, gathered_key, k_cache)
        read_values = self._read(value, gathered_value, v_cache)
        if len(self.calls) == 1 and not self.calls[0].shadow_len:
            call = self.calls[0]
            own = _by_request(queries[0], call.num_requests)
            mixed = self._mix(own, read_keys[0], read_values[0], call.mask)
            # Its rows already lie as those of the query do; several calls have to share memory.
            return mixed.transpose(1, 2).reshape(query.shape)
        out = torch.empty_like(query)
        outputs = _split(out, self.query_sizes)
        pieces = zip(self.calls, queries, read_keys, read_values, outputs, strict=True)
        for call, flat_queries, keys, values, flat_outputs in pieces:
            own = _by_request(flat_queries, call.num_requests)
            target = _by_request(flat_outputs, call.num_requests)
            if call.shadow_mask is not None:
                shadow = self._mix(own[..., -call.shadow_len :, :], keys, values, call.shadow_mask)
                target[..., -call.shadow_len :, :].copy_(shadow)
                own, keys, values, target = (
                    rows[..., : -call.shadow_len, :] for rows in (own, keys, values, target)
                )
            target.copy_(self._mix(own, keys, values, call.mask))
        return out

    def _mix(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        return scaled_dot_product_attention(
            query, key, value, attn_mask=mask, enable_gqa=self.grouped
        )

    def _read(self, rows: Tensor, gathered: Tensor, cache: Tensor) -> list[Tensor]:
        """What each call reads, [B, N, L, D], shadow rows last.

        These are its own flat rows if it is fresh, else its slots and its own shadow rows.
        """
        copies = iter(_split(gathered, self.gathered_sizes))
        pieces = []
        for call, own in zip(self.calls, _split(rows, self.query_sizes), strict=True):
            if call.in_place is not None:
                piece = call.in_place.view(cache, call.num_requests, call.read_len)
            else:
                piece = _by_request(own if call.fresh else next(copies), call.num_requests)
            if call.shadow_len and not call.fresh:
                shadows = _by_request(own, call.num_requests)[..., -call.shadow_len :, :]
                piece = torch.cat([piece, shadows], dim=2)
            pieces.append(piece)
        return pieces


class SdpaAttention:
    """Gathers the slots that cannot be read in place; one call per run of equally long requests."""

    name: ClassVar[str] = "sdpa"

    def __init__(self, shape: AttentionShape) -> None:
        self._shape = shape

    @classmethod
    def unsupported(cls, shape: AttentionShape) -> list[str]:
        """Only devices that are not tested."""
        if shape.device.type in ("cpu", "cuda"):
            return []
        return [f"device must be cpu or cuda, got {shape.device.type}"]

    @classmethod
    def remarks(cls, shape: AttentionShape) -> list[str]:
        """What a GPU loses by it."""
        if shape.device.type == "cpu":
            return []
        return ["copies the rows that are read out of their pages; a call per length of request"]

    @property
    def copies_table(self) -> bool:
        """See ``RecordableBackend``."""
        return True

    def fixed(self, layout: FixedLayout) -> PaddedAttention:
        """See ``RecordableBackend``."""
        return PaddedAttention(self._shape, layout)

    def plan(self, metadata: AttentionMetadata) -> SdpaStep:
        """Find the runs of neighbours that can share a call."""
        calls: list[_Call] = []
        gathered: list[tuple[int, int]] = []
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
        starts = first_slots(metadata, self._shape.page_size)
        query_sizes: list[int] = []
        first_row = request = read = 0
        for (query_len, read_len, fresh, shadow_len, column, limited), run in groupby(requests):
            size = sum(1 for _ in run)
            shadow_mask = mask = None
            if shadow_len:
                shadow_mask = self._shadow_mask(shadow_len, read_len, column)
            if limited >= 0:
                reach = metadata.visible[first_row : first_row + query_len - shadow_len, None]
                mask = self._added(torch.arange(read_len, device=reach.device) < reach)
            known = (
                starts[request : request + size] if query_len <= _IN_PLACE_ROWS else [None] * size
            )
            for length, in_place in split_evenly(known):
                calls.append(
                    _Call(
                        num_requests=length,
                        fresh=fresh,
                        shadow_len=shadow_len,
                        read_len=read_len,
                        shadow_mask=shadow_mask,
                        mask=mask,
                        in_place=in_place,
                    )
                )
                query_sizes.append(length * query_len)
                if not fresh:
                    if in_place is None:
                        gathered.append((read, read + length * read_len))
                    read += length * read_len
            first_row += size * query_len
            request += size
        empty = metadata.read_slots[:0]
        slots = [metadata.read_slots[start:stop] for start, stop in gathered]
        is_all = sum(map(len, slots)) == len(metadata.read_slots)
        return SdpaStep(
            calls=tuple(calls),
            query_sizes=tuple(query_sizes),
            gathered_sizes=tuple(stop - start for start, stop in gathered),
            gathered_slots=metadata.read_slots if is_all else torch.cat([empty, *slots]),
            grouped=self._shape.num_heads != self._shape.num_kv_heads,
        )

    def _shadow_mask(self, shadow_len: int, read_len: int, column: int) -> Tensor:
        """All but the row shadowed: [shadow_len, read_len + shadow_len]."""
        device = self._shape.device
        hidden = column + torch.arange(shadow_len, device=device)
        return self._added(hidden[:, None] != torch.arange(read_len + shadow_len, device=device))

    def _added(self, visible: Tensor) -> Tensor:
        """What torch makes of a mask in every call, made once."""
        added = torch.zeros(visible.shape, dtype=self._shape.dtype, device=visible.device)
        return added.masked_fill_(~visible, -torch.inf)


def _split(rows: Tensor, sizes: tuple[int, ...]) -> tuple[Tensor, ...]:
    """[T, N, D] -> views [1, N, size, D]; one call, because slicing each costs more."""
    return torch.split(rows.transpose(0, 1).unsqueeze(0), list(sizes), dim=2)


def _by_request(piece: Tensor, num_requests: int) -> Tensor:
    """[1, N, B * Q, D] -> [B, N, Q, D], a view."""
    if num_requests == 1:
        return piece
    _, num_heads, size, head_dim = piece.shape
    return piece.view(num_heads, num_requests, size // num_requests, head_dim).transpose(0, 1)
