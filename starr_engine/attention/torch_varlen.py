"""Attention through torch's own ``varlen_attn``: FlashAttention without another package.

Sources:
    torch 2.13, torch/nn/attention/varlen.py (signature, shapes) and _fa3.py (what FlashAttention 3
    takes once it is activated); test/test_varlen_attention.py of pytorch (with FlashAttention 2,
    pages are a multiple of 256 rows and the cumulative key lengths must be given, with 3 they must
    not). ``num_splits`` is always 1: with FlashAttention 2 and pages another number gives wrong
    rows (github.com/pytorch/pytorch/issues/194167).
"""

from __future__ import annotations

import importlib
from typing import ClassVar, Final

import torch
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

_MODULE = "torch.nn.attention.varlen"
_PACKAGE: Final = Package(
    module=_MODULE,
    install="torch 2.13 or newer",
    functions={"varlen_attn": ("seqused_k", "block_table", "num_splits", "enable_gqa")},
)


class TorchVarlenAttention(VarlenAttention):
    """``torch.nn.attention.varlen.varlen_attn``, with block tables where the page size allows."""

    name: ClassVar[str] = "torch_varlen"

    def __init__(self, shape: AttentionShape) -> None:
        super().__init__(shape)
        self._attend = importlib.import_module(_MODULE).varlen_attn
        self._implementation = _active_implementation()

    @classmethod
    def unsupported(cls, shape: AttentionShape) -> list[str]:
        """Device, dtype, sizes, or torch's version."""
        return kernel_reasons(shape, FLASH_HEAD_DIMS, _PACKAGE)

    @classmethod
    def remarks(cls, shape: AttentionShape) -> list[str]:
        """See ``AttentionBackend``."""
        reads_pages = _reads_pages(shape.page_size, _active_implementation())
        remarks = common_remarks(reads_pages=reads_pages)
        if not reads_pages:
            remarks.append(f"page_size={FLASH_PAGE_SIZE} would be read in place")
        remarks.append("keys are never split among thread blocks: slow for few rows on many keys")
        return remarks

    @property
    def reads_pages(self) -> bool:
        """See ``VarlenAttention``."""
        return _reads_pages(self.shape.page_size, self._implementation)

    def paged(self, sequences: Sequences, page_table: Tensor) -> Kernel:
        """See ``VarlenAttention``."""
        cu_query, cu_keys = sequences.device_bounds(self.shape.device)
        return self._kernel(
            cu_query,
            None if self._implementation == "FA3" else cu_keys,
            sequences.max_query,
            sequences.max_key,
            key_lens=cu_keys.diff(),
            page_table=page_rows_of(page_table, sequences.owners),
        )

    def packed(self, sequences: Sequences) -> Kernel:
        """See ``VarlenAttention``."""
        cu_query, cu_keys = sequences.device_bounds(self.shape.device)
        return self._kernel(
            cu_query,
            cu_keys,
            sequences.max_query,
            sequences.max_key,
            key_lens=None,
            page_table=None,
        )

    @property
    def copies_table(self) -> bool:
        """See ``RecordableBackend``."""
        return not self.reads_pages

    def fixed(self, layout: FixedLayout) -> FixedAttention:
        """See ``RecordableBackend``."""
        if not self.reads_pages:
            return super().fixed(layout)
        return FixedPagedStep(
            kernel=self._kernel(
                layout.cu_query,
                None if self._implementation == "FA3" else layout.cu_keys,
                layout.rows_each,
                layout.page_table.shape[1] * self.shape.page_size,
                key_lens=layout.key_lens,
                page_table=layout.page_table,
            )
        )

    def _kernel(
        self,
        cu_query: Tensor,
        cu_keys: Tensor | None,
        max_query: int,
        max_key: int,
        *,
        key_lens: Tensor | None,
        page_table: Tensor | None,
    ) -> Kernel:
        """The kernel; no sequence has more rows or keys than ``max_query`` and ``max_key``."""

        def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            out: Tensor = self._attend(
                query,
                keys,
                values,
                cu_query,
                cu_keys,
                max_query,
                max_key,
                enable_gqa=self.shape.num_heads != self.shape.num_kv_heads,
                seqused_k=key_lens,
                block_table=page_table,
                num_splits=1,
            )
            return out

        return attend


def _active_implementation() -> str | None:
    """Which FlashAttention torch calls; None for its own, FlashAttention 2."""
    current = getattr(torch.nn.attention, "current_flash_attention_impl", None)
    return None if current is None else current()


def _reads_pages(page_size: int, implementation: str | None) -> bool:
    return implementation == "FA3" or (
        implementation in (None, "FA2") and page_size % FLASH_PAGE_SIZE == 0
    )
