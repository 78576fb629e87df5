"""Attention inputs for tests, laid out in plain Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby, pairwise

import torch
from torch import Tensor

from starr_engine.attention.base import AttentionBackend, AttentionMetadata, AttentionShape
from starr_engine.layers.attention import LayerAttention


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """One request of a step: how many rows it computes and how many it reads."""

    query_len: int
    """Shadow rows included."""

    read_len: int
    fresh: bool = False
    shadow_len: int = 0
    shadow_column: int = 0

    mask_block: int = 0
    """Block length of a block-causal mask; the rows computed are the last of those read."""

    gap: int = 0
    """Rows left out between the first row read and the others."""

    @property
    def visible_runs(self) -> tuple[tuple[int, int], ...]:
        """Own rows by what they see; empty if all see everything."""
        own = self.visible[: self.query_len - self.shadow_len]
        if all(count == self.read_len for count in own):
            return ()
        return tuple((sum(1 for _ in run), count) for count, run in groupby(own))

    @property
    def visible(self) -> list[int]:
        """How many rows each row sees."""
        own = range(self.read_len - self.query_len + self.shadow_len, self.read_len)
        if not self.mask_block:
            return [self.read_len] * self.query_len
        ends = [(row // self.mask_block + 1) * self.mask_block for row in own]
        return [min(self.read_len, end) for end in ends] + [self.read_len] * self.shadow_len


def causal(lengths: Lengths, mask_block: int) -> Lengths:
    """The same under a block-causal mask."""
    return replace(lengths, mask_block=mask_block)


def gapped(lengths: Lengths, gap: int) -> Lengths:
    """The same, but reading on past ``gap`` rows after the first row."""
    return replace(lengths, gap=gap)


def fresh(length: int, *, shadow: tuple[int, int] | None = None) -> Lengths:
    """A request whose rows read each other and nothing else.

    ``shadow`` says which of them, start and stop, get shadow rows.
    """
    count, first = _shadow(shadow)
    return Lengths(
        query_len=length + count, read_len=length, fresh=True, shadow_len=count, shadow_column=first
    )


def paged(query_len: int, read_len: int, *, shadow: tuple[int, int] | None = None) -> Lengths:
    """A request that reads ``read_len`` rows through pages; ``shadow`` counts these."""
    count, first = _shadow(shadow)
    return Lengths(
        query_len=query_len + count, read_len=read_len, shadow_len=count, shadow_column=first
    )


def _shadow(rows: tuple[int, int] | None) -> tuple[int, int]:
    return (0, 0) if rows is None else (rows[1] - rows[0], rows[0])


def make_metadata(
    requests: Sequence[Lengths],
    *,
    page_size: int = 8,
    device: torch.device | str = "cpu",
    seed: int | None = 0,
) -> tuple[AttentionMetadata, int]:
    """Metadata with pages handed out in random order (ascending if no seed), page 0 reserved.

    Paged requests write the last of the rows that they read, as many as they compute; shadow rows
    are not written.

    Returns:
        The metadata and the number of pages that the cache needs.
    """
    needed = [0 if item.fresh else -(-(item.read_len + item.gap) // page_size) for item in requests]
    num_pages = 1 + sum(needed)
    order = torch.arange(num_pages - 1) + 1
    if seed is not None:
        order = order[torch.randperm(num_pages - 1, generator=torch.Generator().manual_seed(seed))]
    ends = [0, *accumulate(needed)]
    tables = [order[first:end].tolist() for first, end in pairwise(ends)]
    read_slots: list[int] = []
    slot_mapping: list[int] = []
    for item, pages in zip(requests, tables, strict=True):
        slots = [page * page_size + offset for page in pages for offset in range(page_size)]
        if item.gap:
            slots = slots[:1] + slots[1 + item.gap :]
        slots = slots[: 0 if item.fresh else item.read_len]
        read_slots += slots
        num_own = item.query_len - item.shadow_len
        kept = slots[-num_own:] if num_own else []
        slot_mapping += [-1] * (num_own - len(kept)) + kept + [-1] * item.shadow_len
    width = max([1, *needed])
    metadata = AttentionMetadata(
        cu_query=_cumulative([item.query_len for item in requests], device),
        cu_read=_cumulative([0 if item.fresh else item.read_len for item in requests], device),
        read_slots=torch.tensor(read_slots, dtype=torch.int64, device=device),
        slot_mapping=torch.tensor(slot_mapping, dtype=torch.int64, device=device),
        page_table=torch.tensor(
            [pages + [0] * (width - len(pages)) for pages in tables],
            dtype=torch.int32,
            device=device,
        ),
        query_lens=tuple(item.query_len for item in requests),
        read_lens=tuple(item.read_len for item in requests),
        fresh=tuple(item.fresh for item in requests),
        shadow_lens=tuple(item.shadow_len for item in requests),
        shadow_columns=tuple(item.shadow_column for item in requests),
        visible=torch.tensor(
            [count for item in requests for count in item.visible], dtype=torch.int32, device=device
        ),
        limited=tuple(any(n < item.read_len for n in item.visible) for item in requests),
        visible_runs=tuple(item.visible_runs for item in requests),
        reads_prefix=tuple(not item.fresh and not item.gap for item in requests),
    )
    return metadata, num_pages


def fresh_attention(
    backend: type[AttentionBackend], shape: AttentionShape, lengths: Sequence[int]
) -> LayerAttention:
    """What a model calls when every request of the batch is fresh; the caches stay empty."""
    metadata, num_pages = make_metadata(
        [fresh(length) for length in lengths], page_size=shape.page_size, device=shape.device
    )
    step = backend(shape).plan(metadata)
    empty = torch.zeros(
        (num_pages, shape.page_size, shape.num_kv_heads, shape.head_dim),
        dtype=shape.dtype,
        device=shape.device,
    )

    def attend(layer_index: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        del layer_index
        return step.attend(query, key, value, empty, empty)

    return attend


def _cumulative(lengths: list[int], device: torch.device | str) -> Tensor:
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
