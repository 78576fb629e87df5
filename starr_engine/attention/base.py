"""The seam between model and KV pages: what a backend gets and must compute.

Letters: T query rows of the step, R requests, S rows read through pages, N query heads,
K key/value heads, D head size, P pages, G page size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from starr_engine.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionMetadata:
    """Which rows of the step meet in attention; requests lie one after another in the flat rows.

    A request is *fresh* when it reads only rows computed in this step and writes none: its keys
    are its own flat rows and it owns no pages. All others read ``read_slots`` after this step's
    writes are stored.

    The last query rows of a request may be *shadow rows*, one for each row of its active block.
    They attend to all that the request reads but the row they shadow, and to each other through
    the keys and values of this step; no other row attends to them.
    """

    cu_query: Tensor
    """[R+1] int32: request r's query rows, shadow rows included, are
    ``cu_query[r]:cu_query[r+1]``."""

    cu_read: Tensor
    """[R+1] int32: request r reads ``read_slots[cu_read[r]:cu_read[r+1]]``; nothing if fresh."""

    read_slots: Tensor
    """[S] int64: slots read, in position order within a request."""

    slot_mapping: Tensor
    """[T] int64: slot that a row's key and value go to; -1 for rows that are not kept."""

    page_table: Tensor
    """[R, max_pages] int32, padded with the reserved page 0."""

    query_lens: tuple[int, ...]
    """Query rows of each request, shadow rows included, on the host."""

    read_lens: tuple[int, ...]
    """Rows each request attends to, shadow rows aside, on the host; a fresh request attends to all
    its query rows that are no shadow rows."""

    fresh: tuple[bool, ...]
    """Whether request r is fresh."""

    shadow_lens: tuple[int, ...]
    """How many of the query rows, the last ones, are shadow rows; on the host, mostly 0."""

    visible: Tensor
    """[T] int32: how many of the rows that its request attends to, in position order, a row sees:
    those up to the end of its mask block under a block-causal mask, all of them otherwise."""

    limited: tuple[bool, ...]
    """Whether any row of request r sees fewer than all, on the host; never a shadow row."""

    visible_runs: tuple[tuple[tuple[int, int], ...], ...]
    """``visible`` of the limited requests on the host, shadow rows aside: neighbouring rows that
    see equally many, as (rows, rows seen); empty for the others."""

    reads_prefix: tuple[bool, ...]
    """Whether request r reads the first rows of its pages without a gap, so that its row of
    ``page_table`` says what its ``read_slots`` say; on the host, false if fresh."""

    shadow_columns: tuple[int, ...]
    """Which of the rows attended to is the one that the first shadow row shadows; the next row
    belongs to the next shadow row, and so on. 0 without shadow rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionShape:
    """What a backend must support to serve a model."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    page_size: int
    dtype: torch.dtype
    device: torch.device


class StepAttention(Protocol):
    """Attention of one step, planned once and run for every layer."""

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, k_cache: Tensor, v_cache: Tensor
    ) -> Tensor:
        """Attention output of every query row; this step's writes are stored already.

        Args:
            query: [T, N, D], unscaled; scores are divided by the square root of D.
            key: [T, K, D] of this step's rows, read by fresh requests.
            value: [T, K, D].
            k_cache: [P, G, K, D] of this layer.
            v_cache: [P, G, K, D].

        Returns:
            [T, N, D] in the dtype of ``query``.
        """
        ...


class AttentionBackend(Protocol):
    """Scaled dot-product attention of ragged requests over pages.

    A row attends to the first ``visible`` rows that its request reads. Shadow rows are the
    exception, and every backend must mask them as ``AttentionMetadata`` says.
    Made once per engine, by ``backend_class(shape)``.
    """

    name: ClassVar[str]

    def __init__(self, shape: AttentionShape) -> None: ...

    @classmethod
    def unsupported(cls, shape: AttentionShape) -> list[str]:
        """Every reason why this backend cannot serve ``shape``; empty if it can."""
        ...

    @classmethod
    def remarks(cls, shape: AttentionShape) -> list[str]:
        """What works but costs more than it might with ``shape``, for ``starr-engine info``."""
        ...

    def plan(self, metadata: AttentionMetadata) -> StepAttention:
        """Host work of a step, done once and not once per layer."""
        ...


ATTENTION_BACKENDS: Registry[AttentionBackend] = Registry("attention backend")
ATTENTION_BACKENDS.add("reference", "starr_engine.attention.reference:ReferenceAttention")
ATTENTION_BACKENDS.add("sdpa", "starr_engine.attention.sdpa:SdpaAttention")
ATTENTION_BACKENDS.add("torch_varlen", "starr_engine.attention.torch_varlen:TorchVarlenAttention")
ATTENTION_BACKENDS.add("flash_attn", "starr_engine.attention.flash_attn:FlashAttnAttention")
ATTENTION_BACKENDS.add("xformers", "starr_engine.attention.xformers:XFormersAttention")
ATTENTION_BACKENDS.add("flashinfer", "starr_engine.attention.flashinfer:FlashInferAttention")
