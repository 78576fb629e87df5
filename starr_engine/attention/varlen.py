"""What all kernels for ragged sequences over pages share: a step is split, each part is one call.

Requests that a kernel cannot express run through :class:`SdpaAttention` (see ``Parts``). A step of
one part, which most are, copies nothing but what its part copies. Letters as in
``attention/base.py``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from starr_engine import ops
from starr_engine.attention.base import AttentionMetadata, AttentionShape, StepAttention
from starr_engine.attention.fixed import FixedAttention, FixedLayout, PaddedAttention
from starr_engine.attention.sdpa import SdpaAttention
from starr_engine.attention.sequences import (
    Sequences,
    flat_reads,
    flat_rows,
    of_requests,
    sequences_of,
    sort_requests,
    upload,
)

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``(query [T, N, D], keys, values) -> [T, N, D]`` of one step's sequences, for any layer; keys and
values are [P, G, K, D] where they are read through pages, and packed, [S, K, D], otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _PagedStep:
    kernel: Kernel

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, k_cache: Tensor, v_cache: Tensor
    ) -> Tensor:
        """See ``StepAttention``."""
        del key, value
        return self.kernel(query, k_cache, v_cache)


@dataclass(frozen=True, slots=True, kw_only=True)
class _GatheredStep:
    kernel: Kernel
    slots: Tensor
    """[S] int64"""

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, k_cache: Tensor, v_cache: Tensor
    ) -> Tensor:
        """See ``StepAttention``."""
        del key, value
        return self.kernel(query, *ops.gather_kv(k_cache, v_cache, self.slots))


@dataclass(frozen=True, slots=True, kw_only=True)
class _FreshStep:
    kernel: Kernel

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, k_cache: Tensor, v_cache: Tensor
    ) -> Tensor:
        """See ``StepAttention``."""
        del k_cache, v_cache
        return self.kernel(query, key, value)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    rows: Tensor
    """Flat rows [T'] int64."""

    step: StepAttention

    reads_rows: bool
    """Whether it reads keys and values of this step past the pages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _SplitStep:
    parts: tuple[_Part, ...]
    """Together all rows of the step."""

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, k_cache: Tensor, v_cache: Tensor
    ) -> Tensor:
        """See ``StepAttention``."""
        out = torch.empty_like(query)
        for part in self.parts:
            own_key, own_value = key, value
            if part.reads_rows:
                own_key, own_value = (each.index_select(0, part.rows) for each in (key, value))
            own_query = query.index_select(0, part.rows)
            mixed = part.step.attend(own_query, own_key, own_value, k_cache, v_cache)
            out.index_copy_(0, part.rows, mixed)
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedPagedStep(_PagedStep):
    """A recorded step whose kernel reads all that changes on the device."""

    def prepare(self, key_lens: NDArray[np.int32], page_table: NDArray[np.int32]) -> None:
        """Nothing is left to the host."""
        del key_lens, page_table


class VarlenAttention(ABC):
    """Base of the backends whose kernel takes ragged sequences.

    Args:
        shape: One that the backend supports.
    """

    def __init__(self, shape: AttentionShape) -> None:
        self.shape = shape
        self._masked = SdpaAttention(shape)

    @property
    @abstractmethod
    def reads_pages(self) -> bool:
        """Whether keys are read through page tables; they are copied out of their slots if not."""

    @abstractmethod
    def paged(self, sequences: Sequences, page_table: Tensor) -> Kernel:
        """For sequences that read the first keys of their pages.

        Args:
            sequences: N of them, at least one.
            page_table: [R, max_pages] int32 of the whole step; ``sequences.owners`` are its rows.
        """

    @abstractmethod
    def packed(self, sequences: Sequences) -> Kernel:
        """For sequences whose keys lie one sequence's behind the other's."""

    @property
    def copies_table(self) -> bool:
        """See ``RecordableBackend``; backends whose kernel can be recorded say otherwise."""
        return True

    def fixed(self, layout: FixedLayout) -> FixedAttention:
        """See ``RecordableBackend``: in torch, unless a kernel finds lengths on the device."""
        return PaddedAttention(self.shape, layout)

    def plan(self, metadata: AttentionMetadata) -> StepAttention:
        """Sort the requests and lay out what the kernels take."""
        requests = sort_requests(metadata, reads_pages=self.reads_pages)
        device = metadata.read_slots.device
        parts: list[tuple[tuple[int, ...], StepAttention]] = []
        if requests.paged:
            sequences = sequences_of(metadata, requests.paged)
            paged = self.paged(sequences, metadata.page_table)
            parts.append((requests.paged, _PagedStep(kernel=paged)))
        if requests.gathered:
            sequences = sequences_of(metadata, requests.gathered)
            slots = metadata.read_slots
            if sequences.bounds is None:
                slots = slots.index_select(0, upload(flat_reads(metadata, sequences), device))
            step = _GatheredStep(kernel=self.packed(sequences), slots=slots)
            parts.append((requests.gathered, step))
        if requests.fresh:
            packed = self.packed(sequences_of(metadata, requests.fresh))
            parts.append((requests.fresh, _FreshStep(kernel=packed)))
        if requests.masked:
            rest = of_requests(metadata, requests.masked)
            parts.append((requests.masked, self._masked.plan(rest)))
        if len(parts) == 1:
            return parts[0][1]
        return _SplitStep(
            parts=tuple(
                _Part(
                    rows=upload(flat_rows(metadata, own), device),
                    step=step,
                    reads_rows=own in (requests.fresh, requests.masked),
                )
                for own, step in parts
            )
        )


def common_remarks(*, reads_pages: bool) -> list[str]:
    """What no such backend does in one call; see :class:`Parts`."""
    if reads_pages:
        copied = "reads with gaps (suffix windows) are copied out of their pages"
        masked = "shadow rows, and block-causal requests without pages, run through sdpa"
    else:
        copied = "the rows that are read are copied out of their pages"
        masked = "shadow rows and block-causal prompts run through sdpa"
    return [copied, masked]
