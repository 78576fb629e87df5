"""Ranks as threads of one process: what they compute, without what it takes to start processes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TypeVar, cast

from torch.distributed import HashStore, ProcessGroupGloo

from starr_engine.layers.ranks import Collectives, Ranks

_T = TypeVar("_T")


def as_ranks(count: int, run: Callable[[Ranks], _T]) -> list[_T]:
    """What ``run`` returns on each of ``count`` ranks that run at once."""
    store = HashStore()

    def one(rank: int) -> _T:
        group = ProcessGroupGloo(store, rank, count, timedelta(seconds=60))
        return run(Ranks(rank=rank, count=count, collectives=cast(Collectives, group)))

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))
