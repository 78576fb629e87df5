"""Steps of attention with random inputs, and what they should give under the full mask matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from starr_engine.attention.base import AttentionBackend, AttentionShape
from starr_engine.attention.select import make_backend
from tests.helpers.attention import Lengths, causal, fresh, make_metadata, paged

PAGE_SIZE = 8

STEPS: dict[str, list[Lengths]] = {
    "one row": [fresh(1)],
    "one paged row": [paged(1, 1)],
    "fresh, ragged": [fresh(31), fresh(2), fresh(33), fresh(1)],
    "fresh, equal neighbours": [fresh(20), fresh(20), fresh(20)],
    "paged around page boundaries": [paged(4, 7), paged(4, 8), paged(4, 9), paged(4, 17)],
    "paged, equal neighbours": [paged(16, 40), paged(16, 40), paged(16, 24)],
    "whole refresh through pages": [paged(33, 33), paged(64, 64)],
    "fresh and paged mixed": [paged(16, 50), fresh(9), fresh(9), paged(16, 16), paged(3, 65)],
    "equal lengths, one fresh": [fresh(16), paged(16, 16), fresh(16)],
    "a request without rows": [paged(0, 12), paged(5, 12), fresh(4)],
    "shadow rows, fresh": [fresh(20, shadow=(8, 16))],
    "shadow rows, paged": [paged(8, 40, shadow=(32, 40)), paged(17, 40, shadow=(24, 32))],
    "shadow rows, equal neighbours": [fresh(20, shadow=(8, 16))] * 3
    + [paged(8, 24, shadow=(16, 24))] * 2,
    "shadow rows of one": [fresh(1, shadow=(0, 1)), paged(1, 1, shadow=(0, 1))],
    "shadow rows among others": [
        *(fresh(20), fresh(20, shadow=(12, 20)), fresh(20, shadow=(4, 12)), fresh(28)),
        *(paged(8, 32), paged(8, 32, shadow=(24, 32)), fresh(9), paged(8, 17)),
    ],
    "block-causal, fresh": [causal(fresh(n), 4) for n in (1, 4, 5, 19, 19, 3)],
    "block-causal, paged": [
        *(causal(paged(32, 32), 8), causal(paged(16, 40), 8), causal(paged(16, 40), 8)),
        *(causal(paged(8, 40), 8), causal(paged(8, 40), 8), causal(paged(11, 27), 16)),
    ],
    "block-causal, with shadow rows": [
        *(causal(fresh(20, shadow=(16, 20)), 8), causal(paged(12, 20, shadow=(16, 20)), 8)),
        *(fresh(20), paged(8, 24)),
    ],
}


def shape(
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    dtype: torch.dtype,
    device: str,
    page_size: int = PAGE_SIZE,
) -> AttentionShape:
    """Shape with pages of :data:`PAGE_SIZE` rows."""
    return AttentionShape(
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        page_size=page_size,
        dtype=dtype,
        device=torch.device(device),
    )


class Step:
    """Random inputs of one step; slots that nobody reads hold NaN."""

    def __init__(
        self, lengths: list[Lengths], attention: AttentionShape, page_seed: int | None = 0
    ) -> None:
        self.shape = attention
        self.metadata, num_pages = make_metadata(
            lengths, page_size=attention.page_size, device=attention.device, seed=page_seed
        )
        generator = torch.Generator().manual_seed(0)

        def random(rows: int, heads: int) -> Tensor:
            values = torch.randn((rows, heads, attention.head_dim), generator=generator)
            return values.to(attention.device, attention.dtype)

        num_rows = sum(self.metadata.query_lens)
        self.query = random(num_rows, attention.num_heads)
        self.key = random(num_rows, attention.num_kv_heads)
        self.value = random(num_rows, attention.num_kv_heads)
        num_slots = num_pages * attention.page_size
        unread = torch.ones(num_slots, dtype=torch.bool, device=attention.device)
        unread[self.metadata.read_slots] = False
        caches = []
        for _ in range(2):
            cache = random(num_slots, attention.num_kv_heads)
            cache[unread] = float("nan")
            caches.append(cache.view(num_pages, attention.page_size, *cache.shape[1:]))
        self.k_cache, self.v_cache = caches

    def run(self, backend: str) -> Tensor:
        """Output of a backend."""
        return self.run_on(make_backend(backend, self.shape))

    def run_on(self, backend: AttentionBackend) -> Tensor:
        """Output of a backend that is made already."""
        step = backend.plan(self.metadata)
        return step.attend(self.query, self.key, self.value, self.k_cache, self.v_cache)

    def expected(self) -> Tensor:
        """Float64 output."""
        return self.dense(torch.float64)

    def dense(self, dtype: torch.dtype) -> Tensor:
        """All rows of the step over all keys of the step under the full mask matrix, in ``dtype``.

        Through ``cu_query``, ``cu_read`` and the page table alone.
        """
        meta = self.metadata
        rows: list[tuple[int, bool, int]] = []  # request, whether it is a shadow row, which one
        columns: list[tuple[int, bool, int]] = []
        keys, values = [], []
        for index, (is_fresh, num_shadow) in enumerate(
            zip(meta.fresh, meta.shadow_lens, strict=True)
        ):
            start, stop = (int(at) for at in meta.cu_query[index : index + 2])
            own, shadow = slice(start, stop - num_shadow), slice(stop - num_shadow, stop)
            if is_fresh:
                read_keys, read_values = self.key[own], self.value[own]
            else:
                pages = meta.page_table[index].long()
                read_len = int(meta.cu_read[index + 1] - meta.cu_read[index])
                read_keys, read_values = (
                    cache[pages].flatten(0, 1)[:read_len] for cache in (self.k_cache, self.v_cache)
                )
            keys += [read_keys, self.key[shadow]]
            values += [read_values, self.value[shadow]]
            rows += [(index, False, n) for n in range(own.stop - own.start)]
            columns += [(index, False, n) for n in range(len(read_keys))]
            shadows = [(index, True, n) for n in range(num_shadow)]
            rows, columns = rows + shadows, columns + shadows
        visible = torch.tensor([[self._sees(row, column) for column in columns] for row in rows])
        group = self.shape.num_heads // self.shape.num_kv_heads
        query = self.query.to(dtype).transpose(0, 1)
        key, value = (
            torch.cat(parts).to(dtype).repeat_interleave(group, 1).transpose(0, 1)
            for parts in (keys, values)
        )
        scores = query @ key.transpose(1, 2) / self.shape.head_dim**0.5
        scores = scores.masked_fill(~visible.to(scores.device), -torch.inf)
        return (torch.softmax(scores, dim=-1) @ value).transpose(0, 1)

    def _sees(self, row: tuple[int, bool, int], column: tuple[int, bool, int]) -> bool:
        """Whether a row attends to a column: one entry of the mask matrix."""
        if row[0] != column[0]:
            return False
        if column[1]:
            return row[1]
        if row[1]:
            return column[2] != self.metadata.shadow_columns[row[0]] + row[2]
        return column[2] < int(self.metadata.visible[self.metadata.cu_query[row[0]] + row[2]])
