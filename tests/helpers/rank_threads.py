"""Ranks as threads of one process: what they compute, without what it takes to start processes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from queue import SimpleQueue
from typing import TypeVar, cast

import torch
from torch.distributed import HashStore, ProcessGroupGloo

from starr_engine.engine.rank_worker import follow
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


class RankThreads:
    """A ``RankGroup`` of threads; what it keeps shows what crosses between ranks."""

    ranks: Ranks

    def __init__(self, count: int, device: torch.device) -> None:
        self.messages: list[bytes] = []
        self._channels = [_Queues() for _ in range(1, count)]
        store = HashStore()

        def connect(rank: int) -> Ranks:
            group = ProcessGroupGloo(store, rank, count, timedelta(seconds=60))
            return Ranks(rank=rank, count=count, collectives=cast(Collectives, group))

        def run(rank: int) -> None:
            follow(self._channels[rank - 1], connect(rank), device)

        self._pool = ThreadPoolExecutor(count)
        self._runs = [self._pool.submit(run, rank) for rank in range(1, count)]
        self.ranks = connect(0)

    def tell(self, message: bytes) -> None:
        self.messages.append(message)
        for channel in self._channels:
            channel.told.put(message)

    def hear(self) -> list[bytes]:
        return [channel.answers.get(timeout=60) for channel in self._channels]

    def death(self, patience_s: float = 0.0) -> str | None:
        del patience_s
        return None

    def close(self) -> None:
        self.tell(b"")
        for run in self._runs:
            run.result(timeout=60)

    def abandon(self, reason: str) -> None:
        raise AssertionError(reason)


class _Queues:
    """A ``Channel``."""

    def __init__(self) -> None:
        self.told: SimpleQueue[bytes] = SimpleQueue()
        self.answers: SimpleQueue[bytes] = SimpleQueue()

    def receive(self) -> bytes:
        return self.told.get(timeout=60)

    def answer(self, message: bytes) -> None:
        self.answers.put(message)
