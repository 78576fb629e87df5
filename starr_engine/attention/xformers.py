"""Attention through xFormers' ``memory_efficient_attention_forward``.

Sources:
    github.com/facebookresearch/xformers 0.0.35, xformers/ops/fmha; the biases and kernels behind
    it, github.com/meta-pytorch/MSLK, mslk/attention/fmha: attn_bias.py (``BlockDiagonalMask``,
    ``BlockDiagonalPaddedKeysMask.make_paged``, the layout of paged keys), flash.py and
    triton_splitk.py (page sizes and head sizes served), dispatch.py. Query heads that share keys
    go in as a fifth dimension with keys expanded along it.
"""

from __future__ import annotations

import importlib
from typing import Any, ClassVar, Final

from torch import Tensor

from starr_engine.attention.base import AttentionShape
from starr_engine.attention.requirements import (
    FLASH_HEAD_DIMS,
    FLASH_PAGE_SIZE,
    Package,
    kernel_reasons,
)
from starr_engine.attention.sequences import Sequences, page_rows_of
from starr_engine.attention.varlen import Kernel, VarlenAttention, common_remarks

_PAGED_HEAD_DIMS: Final = (16, 32, 64, 128, 256)
"""Those of the Triton kernel, which serves pages where xFormers runs torch's FlashAttention."""

_PACKAGE: Final = Package(
    module="xformers.ops",
    install="pip install 'xformers>=0.0.33'",
    functions={
        "memory_efficient_attention_forward": ("attn_bias",),
        "fmha.attn_bias.BlockDiagonalMask.from_seqlens": ("q_seqlen", "kv_seqlen", "device"),
        "fmha.attn_bias.BlockDiagonalPaddedKeysMask.from_seqlens": ("kv_padding", "device"),
        "fmha.attn_bias.BlockDiagonalPaddedKeysMask.make_paged": ("block_tables", "paged_type"),
        "fmha.attn_bias.PagedBlockDiagonalPaddedKeysMask": ("block_tables",),
    },
)


class XFormersAttention(VarlenAttention):
    """Block-diagonal biases, paged where page and head sizes allow."""

    name: ClassVar[str] = "xformers"

    def __init__(self, shape: AttentionShape) -> None:
        super().__init__(shape)
        self._ops = importlib.import_module("xformers.ops")

    @classmethod
    def unsupported(cls, shape: AttentionShape) -> list[str]:
        """Device, dtype, sizes, or the package."""
        return kernel_reasons(shape, FLASH_HEAD_DIMS, _PACKAGE)

    @classmethod
    def remarks(cls, shape: AttentionShape) -> list[str]:
        """See ``AttentionBackend``."""
        reads_pages = _reads_pages(shape)
        remarks = common_remarks(reads_pages=reads_pages)
        if not reads_pages and shape.head_dim in _PAGED_HEAD_DIMS:
            remarks.append(f"page_size={FLASH_PAGE_SIZE} would be read in place")
        return remarks

    @property
    def reads_pages(self) -> bool:
        """See ``VarlenAttention``."""
        return _reads_pages(self.shape)

    def paged(self, sequences: Sequences, page_table: Tensor) -> Kernel:
        """See ``VarlenAttention``."""
        biases = self._ops.fmha.attn_bias
        tables = page_rows_of(page_table, sequences.owners)
        page_size = self.shape.page_size
        padded = biases.BlockDiagonalPaddedKeysMask.from_seqlens(
            q_seqlen=list(sequences.query_lens),
            kv_padding=tables.shape[1] * page_size,
            kv_seqlen=list(sequences.key_lens),
            device=self.shape.device,
        )
        bias = padded.make_paged(
            block_tables=tables,
            page_size=page_size,
            paged_type=biases.PagedBlockDiagonalPaddedKeysMask,
        )

        def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            return self._attend(query, keys.flatten(0, 1), values.flatten(0, 1), bias)

        return attend

    def packed(self, sequences: Sequences) -> Kernel:
        """See ``VarlenAttention``."""
        bias = self._ops.fmha.attn_bias.BlockDiagonalMask.from_seqlens(
            q_seqlen=list(sequences.query_lens),
            kv_seqlen=list(sequences.key_lens),
            device=self.shape.device,
        )

        def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            return self._attend(query, keys, values, bias)

        return attend

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor, bias: Any) -> Tensor:
        """[T, N, D], [S, K, D] twice -> [T, N, D]."""
        num_kv_heads = self.shape.num_kv_heads
        group = self.shape.num_heads // num_kv_heads
        own: tuple[Tensor, ...] = (query[None], keys[None], values[None])
        if group > 1:
            grouped = query.reshape(1, len(query), num_kv_heads, group, -1)
            wide = (each[None, :, :, None].expand(-1, -1, -1, group, -1) for each in (keys, values))
            own = (grouped, *wide)
        out: Tensor = self._ops.memory_efficient_attention_forward(*own, attn_bias=bias)
        return out.reshape(query.shape)


def _reads_pages(shape: AttentionShape) -> bool:
    return shape.page_size % FLASH_PAGE_SIZE == 0 and shape.head_dim in _PAGED_HEAD_DIMS
