"""Attention through FlashInfer's batched prefill over pages of any size.

Source:
    github.com/flashinfer-ai/flashinfer, flashinfer/prefill.py
    (``BatchPrefillWithPagedKVCacheWrapper`` and ``...RaggedKVCacheWrapper``: what ``plan`` takes on
    the host and on the device, the layout NHD, 128 MB of workspace) and
    include/flashinfer/utils.cuh (head sizes).
"""

from __future__ import annotations

import importlib
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from starr_engine.attention.base import AttentionShape
from starr_engine.attention.fixed import FixedAttention, FixedLayout
from starr_engine.attention.requirements import Package, kernel_reasons
from starr_engine.attention.sequences import Sequences, upload
from starr_engine.attention.varlen import Kernel, VarlenAttention, common_remarks

_WORKSPACE_BYTES: Final = 128 << 20
_HEAD_DIMS: Final = (64, 128, 256)
_LAYOUT: Final = "NHD"
_PLAN: Final = ("qo_indptr", "head_dim_qk", "causal", "q_data_type", "disable_split_kv")
_PACKAGE: Final = Package(
    module="flashinfer",
    install="pip install 'flashinfer-python>=0.6'",
    functions={
        "BatchPrefillWithPagedKVCacheWrapper.plan": (*_PLAN, "paged_kv_last_page_len", "page_size"),
        "BatchPrefillWithRaggedKVCacheWrapper.plan": (*_PLAN, "kv_indptr"),
    },
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PageArguments:
    """How FlashInfer is told which pages N sequences read."""

    indptr: NDArray[np.int32]
    """[N+1]: sequence n reads the pages ``indptr[n]:indptr[n+1]`` of a list."""

    places: NDArray[np.int64]
    """[indptr[N]]: where in the flat page table each page of the list stands."""

    last_page_len: NDArray[np.int32]
    """[N]: rows read of the last page, 1 to the page size."""


def page_arguments(sequences: Sequences, page_size: int, table_width: int) -> PageArguments:
    """Lay out the pages of sequences.

    Args:
        sequences: N of them.
        page_size: Rows of a page.
        table_width: Columns of the page table, whose rows are requests.
    """
    counts = sequences.page_counts(page_size)
    indptr = np.zeros(len(counts) + 1, np.int32)
    np.cumsum(counts, out=indptr[1:])
    first = np.array(sequences.owners, np.int64) * table_width - indptr[:-1]
    places = np.repeat(first, counts) + np.arange(indptr[-1])
    key_lens = np.array(sequences.key_lens, np.int32)
    last = key_lens - (counts - 1) * np.int32(page_size)
    return PageArguments(indptr=indptr, places=places, last_page_len=last.astype(np.int32))


@dataclass(slots=True)
class _Wrappers:
    """Wrappers of one kind, each holding one plan: those of several steps may be alive at once."""

    make: Callable[[], Any]
    free: list[tuple[Any, torch.cuda.Event | None]] = field(default_factory=list)

    def kernel(self, device: torch.device, plan: Callable[[Any], None]) -> tuple[Any, _Lease]:
        """A wrapper that is planned, free again when the lease is gone."""
        wrapper, event = self.free.pop() if self.free else (self.make(), None)
        if event is not None:
            event.synchronize()  # its last plan may still be on its way out of pinned memory
        plan(wrapper)
        planned = None
        if device.type == "cuda":
            planned = torch.cuda.Event()  # type: ignore[no-untyped-call]
            planned.record(torch.cuda.current_stream(device))
        lease = _Lease()
        weakref.finalize(lease, self.free.append, (wrapper, planned))
        return wrapper, lease


class _Lease:
    """Alive as long as the step whose plan a wrapper holds."""


class _FixedStep:
    """A wrapper whose plans go to the same memory, so that a recording finds them.

    Args:
        shape: Of the layers.
        layout: Of the steps.
        workspace: Shared by all wrappers, which run one after the other.
        arguments: See ``FlashInferAttention.plan_arguments``.
    """

    def __init__(
        self, shape: AttentionShape, layout: FixedLayout, workspace: Tensor, arguments: Any
    ) -> None:
        self._shape = shape
        self._arguments = arguments
        self._cu_query = layout.cu_query.cpu()
        self._planned: torch.cuda.Event | None = None
        library = importlib.import_module("flashinfer")

        def buffer(size: int) -> Tensor:
            return torch.zeros(size, dtype=torch.int32, device=shape.device)

        self._wrapper = library.BatchPrefillWithPagedKVCacheWrapper(
            workspace,
            _LAYOUT,
            use_cuda_graph=True,
            qo_indptr_buf=buffer(layout.num_sequences + 1),
            paged_kv_indptr_buf=buffer(layout.num_sequences + 1),
            paged_kv_indices_buf=buffer(layout.page_table.numel()),
            paged_kv_last_page_len_buf=buffer(layout.num_sequences),
        )

    def prepare(self, key_lens: NDArray[np.int32], page_table: NDArray[np.int32]) -> None:
        """See ``FixedAttention``."""
        size, device = self._shape.page_size, self._shape.device
        counts = -(-key_lens // size)
        indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        pages = page_table[np.arange(page_table.shape[1]) < counts[:, None]]
        if self._planned is not None:
            self._planned.synchronize()  # the last plan may still be leaving pinned memory
        self._wrapper.plan(
            qo_indptr=self._cu_query,
            paged_kv_indptr=torch.from_numpy(indptr),
            paged_kv_indices=upload(pages, device),
            paged_kv_last_page_len=torch.from_numpy(key_lens - (counts - 1) * np.int32(size)),
            page_size=size,
            **self._arguments,
        )
        if device.type == "cuda":
            self._planned = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._planned.record(torch.cuda.current_stream(device))

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, k_cache: Tensor, v_cache: Tensor
    ) -> Tensor:
        """See ``StepAttention``."""
        del key, value
        out: Tensor = self._wrapper.run(query, (k_cache, v_cache))
        return out


class FlashInferAttention(VarlenAttention):
    """Paged and ragged prefill wrappers, never causal."""

    name: ClassVar[str] = "flashinfer"

    def __init__(self, shape: AttentionShape) -> None:
        super().__init__(shape)
        library = importlib.import_module("flashinfer")
        workspace = torch.zeros(_WORKSPACE_BYTES, dtype=torch.uint8, device=shape.device)
        self._workspace = workspace
        self._paged = _Wrappers(
            lambda: library.BatchPrefillWithPagedKVCacheWrapper(workspace, _LAYOUT)
        )
        self._ragged = _Wrappers(
            lambda: library.BatchPrefillWithRaggedKVCacheWrapper(workspace, _LAYOUT)
        )

    @classmethod
    def unsupported(cls, shape: AttentionShape) -> list[str]:
        """Device, dtype, sizes, or the package."""
        return kernel_reasons(shape, _HEAD_DIMS, _PACKAGE)

    @classmethod
    def remarks(cls, shape: AttentionShape) -> list[str]:
        """See ``AttentionBackend``."""
        del shape
        return [
            *common_remarks(reads_pages=True),
            f"takes {_WORKSPACE_BYTES >> 20} MiB beside the pages",
            "splits keys among thread blocks by the load, so that last bits depend on the batch, "
            "unless torch.use_deterministic_algorithms(True) is set",
            "compiles its kernels when it is first used, unless they are installed compiled",
        ]

    @property
    def reads_pages(self) -> bool:
        """Pages of every size."""
        return True

    @property
    def copies_table(self) -> bool:
        """See ``RecordableBackend``."""
        return False

    def fixed(self, layout: FixedLayout) -> FixedAttention:
        """See ``RecordableBackend``."""
        return _FixedStep(self.shape, layout, self._workspace, self.plan_arguments())

    def paged(self, sequences: Sequences, page_table: Tensor) -> Kernel:
        """See ``VarlenAttention``."""
        shape = self.shape
        pages = page_arguments(sequences, shape.page_size, page_table.shape[1])
        places = upload(pages.places, shape.device)

        def plan(wrapper: Any) -> None:
            wrapper.plan(
                qo_indptr=torch.from_numpy(sequences.cumulative()[0]),
                paged_kv_indptr=torch.from_numpy(pages.indptr),
                paged_kv_indices=page_table.flatten().index_select(0, places),
                paged_kv_last_page_len=torch.from_numpy(pages.last_page_len),
                page_size=shape.page_size,
                **self.plan_arguments(),
            )

        wrapper, lease = self._paged.kernel(shape.device, plan)

        def attend(query: Tensor, keys: Tensor, values: Tensor, lease: _Lease = lease) -> Tensor:
            out: Tensor = wrapper.run(query, (keys, values))
            return out

        return attend

    def packed(self, sequences: Sequences) -> Kernel:
        """See ``VarlenAttention``."""
        cu_query, cu_keys = torch.from_numpy(sequences.cumulative())

        def plan(wrapper: Any) -> None:
            wrapper.plan(qo_indptr=cu_query, kv_indptr=cu_keys, **self.plan_arguments())

        wrapper, lease = self._ragged.kernel(self.shape.device, plan)

        def attend(query: Tensor, keys: Tensor, values: Tensor, lease: _Lease = lease) -> Tensor:
            out: Tensor = wrapper.run(query, keys, values)
            return out

        return attend

    def plan_arguments(self) -> dict[str, Any]:
        """What every plan is told of the shape."""
        return {
            "num_qo_heads": self.shape.num_heads,
            "num_kv_heads": self.shape.num_kv_heads,
            "head_dim_qk": self.shape.head_dim,
            "causal": False,
            # By default the keys of a request are split by what else is in the batch.
            "disable_split_kv": torch.are_deterministic_algorithms_enabled(),
            "q_data_type": self.shape.dtype,
            "kv_data_type": self.shape.dtype,
        }
