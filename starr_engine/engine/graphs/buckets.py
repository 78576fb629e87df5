"""Which steps are replayed from a recording, and of which size: pure functions of a step.

A recording has a fixed grid: N sequences of Q rows, page tables of W pages. A *sequence* is some
rows of a request that see equally many of the rows it reads (``attention/sequences.py``): one for
most requests, two for a block that is committed with the next one's first step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from starr_engine.attention.base import AttentionMetadata
from starr_engine.attention.sequences import Sequences, sequences_of
from starr_engine.cache.base import StepKind
from starr_engine.engine.graphs.recording import Bucket
from starr_engine.engine.step_batch import StepBatch

ROWS_EACH: Final = (4, 8, 16, 24, 32, 48, 64, 96, 128)
"""Rows that a sequence is padded to; longer ones keep a GPU busy without a recording."""

MAX_ROWS: Final = 2048
"""Rows of a grid beyond which kernels take longer than it takes to launch them one by one."""

MAX_COPIED_ROWS: Final = 32768
"""Rows that a recording may copy out of its page tables; see ``RecordableBackend.copies_table``."""

FREE_ROWS: Final = 512
"""Rows that cost what reading the weights costs (``CUDA_RIDGE_ROWS``): padding up to them is free,
and beyond them it may at most double a step."""

EAGER_REASONS: Final[Mapping[str, Callable[[StepBatch], bool]]] = {
    "nothing is computed": lambda batch: not any(batch.attention.query_lens),
    "a request computes its prompt": lambda batch: _has(batch, StepKind.PREFILL),
    "a request refreshes its cache": lambda batch: _has(batch, StepKind.REFRESH),
    "a request keeps what layers add to its rows": lambda batch: batch.features is not None,
    "the drift of rows is measured": lambda batch: batch.measured is not None,
    "rows are told of the last step's logits": lambda batch: batch.canvas is not None,
    "layers see windows": lambda batch: bool(batch.windows),
    "a request has shadow rows": lambda batch: any(batch.attention.shadow_lens),
    "a request keeps no pages": lambda batch: any(batch.attention.fresh),
    "a request reads rows with gaps": lambda batch: not _reads_prefixes(batch.attention),
}
"""Why no recording can serve a step, whatever its size, and how one tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketRule:
    """The recordings that an engine may keep."""

    sequence_counts: tuple[int, ...]
    """Values of N, ascending."""

    page_size: int
    max_pages: int
    """Of a request of the longest length."""

    copies_table: bool
    """See ``RecordableBackend``: W then is a power of two, and all of a request's pages if not."""

    max_rows: int = MAX_ROWS
    free_rows: int = FREE_ROWS

    def usual(self, longest: int) -> list[Bucket]:
        """Recordings for steps of all sizes, largest first, whose sequences have so many rows.

        None where tables are copied: there are too many widths of them.
        """
        rows_each = _at_least(longest, ROWS_EACH)
        if rows_each is None or self.copies_table:
            return []
        buckets = [Bucket(count, rows_each, self.max_pages) for count in self.sequence_counts]
        return [bucket for bucket in reversed(buckets) if bucket.num_rows <= self.max_rows]

    def fit(self, sequences: Sequences) -> Bucket | str:
        """The smallest bucket that holds the sequences, or why none does."""
        count, longest = len(sequences.owners), sequences.max_query
        num_sequences = _at_least(count, self.sequence_counts)
        rows_each = _at_least(longest, ROWS_EACH)
        if num_sequences is None:
            return f"more than {self.sequence_counts[-1]} sequences"
        if rows_each is None:
            return f"a sequence of more than {ROWS_EACH[-1]} rows"
        pages = -(-sequences.max_key // self.page_size)
        if self.copies_table:
            pages = min(1 << (pages - 1).bit_length(), self.max_pages)
            if num_sequences * pages * self.page_size > MAX_COPIED_ROWS:
                return f"more than {MAX_COPIED_ROWS} rows would be copied out of pages"
        else:
            pages = self.max_pages
        bucket = Bucket(num_sequences, rows_each, pages)
        if bucket.num_rows > self.max_rows:
            return f"more than {self.max_rows} rows with padding"
        if bucket.num_rows > max(self.free_rows, 2 * sum(sequences.query_lens)):
            return "padding would more than double the rows"
        return bucket


def default_counts(max_num_requests: int, sequences_each: int) -> tuple[int, ...]:
    """1, 2, 4, then multiples of 8 up to 32, of 16 up to 64, and so on: at most a half is padding.

    Args:
        max_num_requests: Requests of a step.
        sequences_each: Sequences that a request may become.
    """
    most = max_num_requests * sequences_each
    counts = [1]
    while counts[-1] < most:
        last = counts[-1]
        counts.append(last + (last if last < 8 else max(8, 1 << (int(math.log2(last)) - 1))))
    return tuple(counts)


def eager_reason(batch: StepBatch) -> str | None:
    """The first of ``EAGER_REASONS`` that holds for a step; None if it may be replayed."""
    return next((reason for reason, holds in EAGER_REASONS.items() if holds(batch)), None)


def step_sequences(meta: AttentionMetadata) -> Sequences:
    """The sequences of a step that :func:`eager_reason` does not speak against."""
    return sequences_of(meta, [at for at, rows in enumerate(meta.query_lens) if rows])


def _has(batch: StepBatch, kind: StepKind) -> bool:
    return any(entry.plan.kind is kind for entry in batch.entries)


def _reads_prefixes(meta: AttentionMetadata) -> bool:
    pairs = zip(meta.reads_prefix, meta.query_lens, strict=True)
    return all(reads for reads, rows in pairs if rows)


def _at_least(wanted: int, sizes: Sequence[int]) -> int | None:
    return next((size for size in sizes if size >= wanted), None)
