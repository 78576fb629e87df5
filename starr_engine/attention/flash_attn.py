"""Attention through the package flash-attn (FlashAttention 2).

Source:
    github.com/Dao-AILab/flash-attention, flash_attn/flash_attn_interface.py
    (``flash_attn_varlen_func``) and csrc/flash_attn/flash_api.cpp (``mha_varlen_fwd``: what
    lengths, pages and head sizes it takes; that ``cu_seqlens_k`` gives key lengths where there is
    a block table).
"""

from __future__ import annotations

import importlib
from typing import ClassVar, Final

from torch import Tensor

from starr_engine.attention.base import AttentionShape
from starr_engine.attention.fixed import FixedAttention, FixedLayout
from starr_engine.attention.requirements import (
    FLASH_HEAD_DIMS,
    FLASH_PAGE_SIZE,
    Package,
    kernel_reasons,
)
from starr_engine.attention.sequences import Sequences, page_rows_of
from starr_engine.attention.varlen import FixedPagedStep, Kernel, VarlenAttention, common_remarks

_PACKAGE: Final = Package(
    module="flash_attn",
    install="pip install 'flash-attn>=2.8'",
    functions={"flash_attn_varlen_func": ("block_table", "causal")},
)


class FlashAttnAttention(VarlenAttention):
    """``flash_attn_varlen_func``, with block tables where the page size allows."""

    name: ClassVar[str] = "flash_attn"

    def __init__(self, shape: AttentionShape) -> None:
        super().__init__(shape)
        self._attend = importlib.import_module("flash_attn").flash_attn_varlen_func

    @classmethod
    def unsupported(cls, shape: AttentionShape) -> list[str]:
        """Device, dtype, sizes, or the package."""
        return kernel_reasons(shape, FLASH_HEAD_DIMS, _PACKAGE)

    @classmethod
    def remarks(cls, shape: AttentionShape) -> list[str]:
        """See ``AttentionBackend``."""
        reads_pages = shape.page_size % FLASH_PAGE_SIZE == 0
        remarks = common_remarks(reads_pages=reads_pages)
        if not reads_pages:
            remarks.append(f"page_size={FLASH_PAGE_SIZE} would be read in place")
        return remarks

    @property
    def reads_pages(self) -> bool:
        """See ``VarlenAttention``."""
        return self.shape.page_size % FLASH_PAGE_SIZE == 0

    def paged(self, sequences: Sequences, page_table: Tensor) -> Kernel:
        """See ``VarlenAttention``."""
        return self._kernel(sequences, page_rows_of(page_table, sequences.owners))

    def packed(self, sequences: Sequences) -> Kernel:
        """See ``VarlenAttention``."""
        return self._kernel(sequences, None)

    @property
    def copies_table(self) -> bool:
        """See ``RecordableBackend``."""
        return not self.reads_pages

    def fixed(self, layout: FixedLayout) -> FixedAttention:
        """See ``RecordableBackend``."""
        if not self.reads_pages:
            return super().fixed(layout)
        max_key = layout.page_table.shape[1] * self.shape.page_size
        return FixedPagedStep(
            kernel=self._call(
                layout.cu_query, layout.cu_keys, layout.rows_each, max_key, layout.page_table
            )
        )

    def _kernel(self, sequences: Sequences, page_table: Tensor | None) -> Kernel:
        cu_query, cu_keys = sequences.device_bounds(self.shape.device)
        return self._call(cu_query, cu_keys, sequences.max_query, sequences.max_key, page_table)

    def _call(
        self,
        cu_query: Tensor,
        cu_keys: Tensor,
        max_query: int,
        max_key: int,
        page_table: Tensor | None,
    ) -> Kernel:
        """The kernel; no sequence has more rows or keys than ``max_query`` and ``max_key``."""

        def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            out: Tensor = self._attend(
                query,
                keys,
                values,
                cu_seqlens_q=cu_query,
                cu_seqlens_k=cu_keys,
                max_seqlen_q=max_query,
                max_seqlen_k=max_key,
                causal=False,
                block_table=page_table,
            )
            return out

        return attend
