"""Which rows a worker gets next, and what becomes of them when it dies. Knows nothing of Ray."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from starr_engine.offline.loop import InOrder
from starr_engine.offline.rows import RawRow, failed_row
from starr_engine.offline.runner import OutputRow


class Handout:
    """Hands rows out by need, takes results in any order, and gives them on in the rows' order.

    A worker that dies leaves suspects: any of the rows it had may have killed it. A suspect runs
    alone in a worker; if that dies too, the row is guilty and set aside with an error. So no row
    is lost, no innocent one is set aside, and no row kills more than two workers.

    Args:
        rows: With consecutive indices.
        start: The first index.
        end: The last index + 1.
        num_workers: That share the rows.
        window: Most rows between the first unfinished one and the last one handed out.
        emit: Takes each finished row of the output, in order.
    """

    def __init__(
        self,
        rows: Iterator[RawRow],
        *,
        start: int,
        end: int,
        num_workers: int,
        window: int,
        emit: Callable[[OutputRow], None],
    ) -> None:
        self._rows: Final = rows
        self._end: Final = end
        self._num_workers: Final = num_workers
        self._window: Final = window
        self._order: Final = InOrder(emit, start)
        self._num_read = start
        self._all_read = False
        self._returned: deque[RawRow] = deque()
        self._suspects: deque[RawRow] = deque()
        # Of each worker by its key: the rows it has not finished.
        self._held: dict[int, dict[int, RawRow]] = {}
        self._alone: set[int] = set()
        self.num_set_aside = 0

    @property
    def is_done(self) -> bool:
        """Whether every row has been emitted."""
        return self._all_read and self._order.num_done == self._num_read

    def num_held(self, worker: int) -> int:
        """Rows that a worker has and has not finished."""
        return len(self._held.get(worker, ()))

    def take(self, worker: int, capacity: int) -> list[RawRow]:
        """The rows to give to a worker now; may be none.

        Args:
            worker: Its key.
            capacity: Most rows that it is to have; near the end it has no more than its share of
                those that are unfinished, so that the workers end together.
        """
        held = self._held.setdefault(worker, {})
        if not held:
            self._alone.discard(worker)
            if self._suspects:
                suspect = self._suspects.popleft()
                held[suspect.index] = suspect
                self._alone.add(worker)
                return [suspect]
        if worker in self._alone:
            return []
        taken = []
        limit = min(capacity, max(1, -(-self._num_unfinished() // self._num_workers)))
        while len(held) < limit and (row := self._next()) is not None:
            held[row.index] = row
            taken.append(row)
        return taken

    def _num_unfinished(self) -> int:
        waiting = len(self._returned) + len(self._suspects)
        return self._end - self._num_read + waiting + sum(map(len, self._held.values()))

    def _next(self) -> RawRow | None:
        if self._returned:
            return self._returned.popleft()
        if self._all_read or self._num_read - self._order.num_done >= self._window:
            return None
        row = next(self._rows, None)
        if row is None:
            self._all_read = True
        else:
            self._num_read += 1
        return row

    def finish(self, worker: int, index: int, columns: OutputRow) -> None:
        """Take a row of the output from a worker."""
        del self._held[worker][index]
        self._order.put(index, columns)

    def lose(self, worker: int, reason: str, *, is_blameless: bool = False) -> None:
        """A worker has died; its rows go to others.

        Args:
            worker: It is never heard of again.
            reason: For the rows that are set aside.
            is_blameless: Its rows cannot be the reason, as when its machine is gone.
        """
        held = self._held.pop(worker, {})
        was_alone = worker in self._alone
        self._alone.discard(worker)
        for row in held.values():
            if is_blameless:
                (self._suspects if was_alone else self._returned).append(row)
            elif was_alone:
                self.num_set_aside += 1
                self._order.put(row.index, failed_row(row, _describe(reason)))
            else:
                self._suspects.append(row)


def _describe(reason: str) -> str:
    return f"this row ended the worker that ran it twice, the second time alone in it: {reason}"
