"""What attention backends must know of a step on the host, where the device must not be asked."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from starr_engine.cache.rows import RowRanges

Int32 = NDArray[np.int32]


def visible_runs(
    visible: Int32, cu_query: Int32, shadow_lens: Int32, limited: Int32
) -> tuple[tuple[tuple[int, int], ...], ...]:
    """See ``AttentionMetadata.visible_runs``.

    Args:
        visible: [T].
        cu_query: [R+1].
        shadow_lens: [R].
        limited: [R], not 0 for requests with a row that sees fewer than all.
    """
    runs: list[tuple[tuple[int, int], ...]] = [()] * len(limited)
    for request in np.flatnonzero(limited).tolist():
        rows = visible[cu_query[request] : cu_query[request + 1] - shadow_lens[request]]
        edges = [0, *(np.flatnonzero(np.diff(rows)) + 1).tolist(), len(rows)]
        runs[request] = tuple(
            (stop - start, int(rows[start])) for start, stop in pairwise(edges) if stop > start
        )
    return tuple(runs)


def reads_prefix(reads: Sequence[RowRanges], paged_lens: Int32) -> tuple[bool, ...]:
    """See ``AttentionMetadata.reads_prefix``.

    Args:
        reads: Rows that each request reads.
        paged_lens: [R], how many of them it reads through pages; 0 if it is fresh.
    """
    return tuple(
        length > 0 and rows == ((0, length),)
        for rows, length in zip(reads, paged_lens.tolist(), strict=True)
    )
