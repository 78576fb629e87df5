"""Layers whose rows see the nearest rows only: what a step's layout becomes for them.

A row of the context at position p sees the last ``window`` rows up to itself. Rows of the active
block, which starts at s, all see the ``window - 1`` rows in front of s and the whole block, as if
each stood at s: their *anchor* is s, that of any other row its own position.

What no row of a request sees is not read at all. In most steps the active block alone is computed,
so that nothing else is left to hide and any backend serves; where rows of the context are computed
too, as in a prompt longer than the window, :class:`WindowedStep` masks them.

Source:
    The sliding layers of Gemma, and of DiffusionGemma's decoder in transformers 5.23, whose cache
    holds ``window - 1`` rows.

Letters as in ``attention/base.py``; Q query rows and L read rows of one request.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from starr_engine import ops
from starr_engine.attention.base import AttentionBackend, AttentionMetadata, StepAttention

Int32 = NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowLayout:
    """What ``AttentionMetadata`` says of rows, on the host; every request reads from row 0 on."""

    cu_query: Int32
    """[R+1]"""

    cu_read: Int32
    """[R+1]; nothing of a fresh request."""

    read_slots: NDArray[np.int64]
    """[S]"""

    visible: Int32
    """[T]"""

    shadow_lens: Int32
    """[R]"""

    shadow_columns: Int32
    """[R]"""

    limited: Int32
    """[R], not 0 if a row that is no shadow row sees fewer than all."""

    def cut(self, anchors: Int32, window: int) -> tuple[RowLayout, Int32]:
        """The layout of layers with a window, and how many of the rows read a row does not see.

        Args:
            anchors: [T] see the module; ascending within a request.
            window: At least 1.

        Returns:
            The layout without the slots that nobody sees; hidden rows [T] at its front.
        """
        query_lens, read_lens = np.diff(self.cu_query), np.diff(self.cu_read)
        hidden = np.maximum(anchors + 1 - window, 0).astype(np.int32)
        # A request's first row looks back farthest; a fresh one reads its own rows as they lie.
        unseen = np.where(read_lens > 0, hidden[self.cu_query[:-1]], 0).astype(np.int32)
        hidden -= np.repeat(unseen, query_lens)
        place = np.arange(len(self.read_slots)) - np.repeat(self.cu_read[:-1], read_lens)
        is_seen = place >= np.repeat(unseen, read_lens)
        cu_read = np.concatenate([[0], np.cumsum(read_lens - unseen)]).astype(np.int32)
        layout = replace(
            self,
            cu_read=cu_read,
            read_slots=self.read_slots[is_seen],
            visible=self.visible - np.repeat(unseen, query_lens),
            shadow_columns=np.where(self.shadow_lens > 0, self.shadow_columns - unseen, 0),
        )
        return layout, hidden


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowedStep:
    """One step of layers with a window in which rows do not see the first rows that are read.

    One call and one mask for each request: such steps are those of prompts and finished blocks.
    """

    metadata: AttentionMetadata
    hidden: Tensor
    """[T] int32: rows at the front of those that its request reads which a row does not see."""

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, k_cache: Tensor, v_cache: Tensor
    ) -> Tensor:
        """See ``StepAttention``."""
        meta = self.metadata
        out = torch.empty_like(query)
        read_key = read_value = key[:0]
        if len(meta.read_slots):
            read_key, read_value = ops.gather_kv(k_cache, v_cache, meta.read_slots)
        row_bounds = pairwise(accumulate(meta.query_lens, initial=0))
        paged = (
            0 if fresh else size for size, fresh in zip(meta.read_lens, meta.fresh, strict=True)
        )
        slot_bounds = pairwise(accumulate(paged, initial=0))
        for request, ((start, stop), slots) in enumerate(zip(row_bounds, slot_bounds, strict=True)):
            shadows = slice(stop - meta.shadow_lens[request], stop)
            keys, values = key[start:stop], value[start:stop]
            if not meta.fresh[request]:
                keys = torch.cat([read_key[slice(*slots)], key[shadows]])
                values = torch.cat([read_value[slice(*slots)], value[shadows]])
            mixed = scaled_dot_product_attention(
                query[start:stop].transpose(0, 1).unsqueeze(0),
                keys.transpose(0, 1).unsqueeze(0),
                values.transpose(0, 1).unsqueeze(0),
                attn_mask=self._mask(request, start, stop),
                enable_gqa=query.shape[1] != key.shape[1],
            )
            out[start:stop] = mixed[0].transpose(0, 1)
        return out

    def _mask(self, request: int, start: int, stop: int) -> Tensor:
        """Which rows a request's rows see: bool [Q, L + shadow rows], these last in both."""
        meta = self.metadata
        read_len, num_shadow = meta.read_lens[request], meta.shadow_lens[request]
        column = torch.arange(read_len + num_shadow, device=self.hidden.device)
        seen = column < meta.visible[start:stop, None]
        seen &= column >= self.hidden[start:stop, None]
        if num_shadow:
            shadow = torch.arange(num_shadow, device=column.device)
            own = seen[-num_shadow:]
            own[:, read_len:] = True
            own[shadow, meta.shadow_columns[request] + shadow] = False
        return seen


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowView:
    """A step as layers with one window see it."""

    attention: AttentionMetadata
    hidden: Tensor | None
    """[T] int32 as in :class:`WindowedStep`; None if nothing is hidden."""

    def plan(self, backend: AttentionBackend) -> StepAttention:
        """By ``backend`` if it can, that is if nothing is hidden."""
        if self.hidden is None:
            return backend.plan(self.attention)
        return WindowedStep(metadata=self.attention, hidden=self.hidden)
