"""Whether a backend computes on this machine what it should, before it serves a model.

Kernels of other packages are built for some GPU and torch, compiled on first use, and have had
releases that returned wrong rows. One small step tells: ragged requests, some fresh, some behind
shuffled pages, one under a block-causal mask and one long enough for keys to be split.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Final

import numpy as np
import torch
from torch import Tensor

from starr_engine.attention.base import (
    AttentionBackend,
    AttentionMetadata,
    AttentionShape,
    StepAttention,
)
from starr_engine.attention.reference import ReferenceAttention
from starr_engine.attention.sdpa import SdpaAttention
from starr_engine.attention.sequences import upload

_QUERY_LENS: Final = (5, 3, 32, 24)
_READ_LENS: Final = (5, 1203, 70, 40)
_FRESH: Final = (True, False, False, False)
_RUNS: Final = ((), (), (), ((8, 24), (16, 40)))

_TIMES_SDPA: Final = 4
"""Largest error, over that of :class:`SdpaAttention`; wrong rows are off by far more."""

_FLOOR: Final = 1e-5
"""Error that is always allowed, over the largest number of the result."""


def trial_problem(backend: type[AttentionBackend], shape: AttentionShape) -> str | None:
    """Run the step; what was wrong with it, or None.

    Args:
        backend: Says that it supports ``shape``.
        shape: Of the model.
    """
    try:
        metadata, num_pages = trial_metadata(shape)
        tensors = _inputs(shape, sum(_QUERY_LENS), num_pages)
        out = _run(backend(shape).plan(metadata), tensors)
    except Exception as error:  # whatever a foreign kernel may raise
        return f"its trial failed: {type(error).__name__}: {error}"
    exact = _run(ReferenceAttention(shape).plan(metadata), [each.double() for each in tensors])
    plain = _run(SdpaAttention(shape).plan(metadata), tensors)
    scale = float(exact.abs().max())
    allowed = _TIMES_SDPA * float((plain.double() - exact).abs().max()) + _FLOOR * scale
    off_by = float((out.double() - exact).abs().nan_to_num(nan=torch.inf).max())
    if off_by > allowed:
        return f"its trial is off by {off_by:.2g} of {scale:.2g}, more than {allowed:.2g}"
    return None


def trial_metadata(shape: AttentionShape) -> tuple[AttentionMetadata, int]:
    """The step, and the pages that it needs."""
    size = shape.page_size
    paged = [0 if fresh else length for length, fresh in zip(_READ_LENS, _FRESH, strict=True)]
    ends = [0, *accumulate(-(-length // size) for length in paged)]
    num_pages = ends[-1] + 1
    order = np.arange(num_pages - 1, 0, -1)  # no page follows another
    width = max(after - before for before, after in pairwise(ends))
    table = np.zeros((len(paged), width), np.int32)
    slots = []
    for request, length in enumerate(paged):
        pages = order[ends[request] : ends[request + 1]]
        table[request, : len(pages)] = pages
        slots.append((pages[:, None] * size + np.arange(size)).flatten()[:length])
    visible = [
        seen
        for rows, length, runs in zip(_QUERY_LENS, _READ_LENS, _RUNS, strict=True)
        for count, end in runs or ((rows, length),)
        for seen in [end] * count
    ]
    none = (0,) * len(paged)
    device = shape.device
    metadata = AttentionMetadata(
        cu_query=upload(np.cumsum([0, *_QUERY_LENS], dtype=np.int32), device),
        cu_read=upload(np.cumsum([0, *paged], dtype=np.int32), device),
        read_slots=upload(np.concatenate(slots), device),
        slot_mapping=upload(np.full(sum(_QUERY_LENS), -1, np.int64), device),
        page_table=upload(table, device),
        query_lens=_QUERY_LENS,
        read_lens=_READ_LENS,
        fresh=_FRESH,
        shadow_lens=none,
        shadow_columns=none,
        visible=upload(np.array(visible, np.int32), device),
        limited=tuple(bool(runs) for runs in _RUNS),
        visible_runs=_RUNS,
        reads_prefix=tuple(not fresh for fresh in _FRESH),
    )
    return metadata, num_pages


def _inputs(shape: AttentionShape, num_rows: int, num_pages: int) -> list[Tensor]:
    """Query, key, value and both caches, from a generator of their own."""
    generator = torch.Generator().manual_seed(0)
    num_slots = num_pages * shape.page_size

    def random(*sizes: int) -> Tensor:
        numbers = torch.randn((*sizes, shape.head_dim), generator=generator)
        return numbers.to(shape.device, shape.dtype)

    query = random(num_rows, shape.num_heads)
    key, value = (random(num_rows, shape.num_kv_heads) for _ in range(2))
    caches = (random(num_slots, shape.num_kv_heads) for _ in range(2))
    paged = (num_pages, shape.page_size, shape.num_kv_heads, shape.head_dim)
    return [query, key, value, *(cache.view(paged) for cache in caches)]


def _run(step: StepAttention, tensors: list[Tensor]) -> Tensor:
    query, key, value, k_cache, v_cache = tensors
    return step.attend(query, key, value, k_cache, v_cache)
