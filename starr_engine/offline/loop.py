"""Rows read, run and handed on in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from starr_engine.offline.rows import RawRow
from starr_engine.offline.runner import BatchLLM, OutputRow, RowRunner
from starr_engine.params import SamplingParams


class InOrder:
    """Hands finished rows on in the order of the input, and holds those that came too early.

    Args:
        emit: Takes each row.
        start: Index of the first one.
    """

    def __init__(self, emit: Callable[[OutputRow], None], start: int = 0) -> None:
        self._emit: Final = emit
        self._early: dict[int, OutputRow] = {}
        self.num_done = start
        """Index of the first row that is not handed on."""

    def put(self, index: int, columns: OutputRow) -> None:
        """Take a finished row."""
        self._early[index] = columns
        while (ready := self._early.pop(self.num_done, None)) is not None:
            self._emit(ready)
            self.num_done += 1


class RowLoop:
    """Keeps the engine full and hands finished rows on in order.

    # rows   |<- handed on ->|<- finished or running, at most ``window`` ->|<- not read yet
    # index  0           num_done                                    num_read

    Args:
        llm: Runs the rows.
        defaults: What a row asks for unless it says otherwise.
        window: Bounds the memory; see :class:`~starr_engine.offline.job.BatchJob`.
        emit: Takes each finished row of the output, in order.
        is_stopped: Asked between steps; True ends :meth:`run` early.
    """

    def __init__(
        self,
        llm: BatchLLM,
        *,
        defaults: SamplingParams,
        window: int,
        emit: Callable[[OutputRow], None],
        is_stopped: Callable[[], bool],
    ) -> None:
        self._window: Final = window
        self._emit: Final = emit
        self._is_stopped: Final = is_stopped
        # Twice what runs at once: a request that ends is replaced in the next step.
        self._max_in_engine: Final = 2 * llm.engine.config.max_num_requests
        self._runner: Final = RowRunner(
            llm, defaults=defaults, on_finish=self._finish, is_stopped=is_stopped
        )
        self._order = InOrder(emit)
        self._num_read = 0

    def run(self, rows: Iterator[RawRow], *, start: int = 0) -> None:
        """Run all rows.

        Args:
            rows: With consecutive indices.
            start: The first index.
        """
        self._num_read = start
        self._order = InOrder(self._emit, start)
        while not self._is_stopped():
            self._feed(rows)
            if not self._runner.num_requests:
                return
            self._runner.step()

    def _feed(self, rows: Iterator[RawRow]) -> None:
        while (
            self._runner.num_requests < self._max_in_engine
            and self._num_read - self._order.num_done < self._window
            and not self._is_stopped()
            and (raw := next(rows, None)) is not None
        ):
            self._num_read += 1
            self._runner.add(raw)

    def _finish(self, index: int, columns: OutputRow) -> None:
        self._order.put(index, columns)
