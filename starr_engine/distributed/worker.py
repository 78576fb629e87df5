"""The actor: one engine in a process of its own, fed with rows while it runs."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from starr_engine.config import EngineConfig
from starr_engine.offline.rows import RawRow
from starr_engine.offline.runner import BatchLLM, OutputRow, RowRunner
from starr_engine.params import SamplingParams

REPLY_INTERVAL_S: Final = 1.0
"""A finished row waits at most so long, and a step, for others to be sent with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerInfo:
    """What a worker says of itself once its model is loaded."""

    config: EngineConfig
    """As the engine has resolved it."""

    process_id: int
    """On its machine."""


class EngineWorker:
    """One engine; :meth:`load` comes before all else.

    Requests stay in the engine between calls of :meth:`work`, so that the batch is full as long as
    the next call waits in the actor's queue.

    Args:
        options: Keyword arguments of ``LLM``.
        params: What a row asks for unless it says otherwise.
    """

    def __init__(self, options: Mapping[str, Any], params: SamplingParams) -> None:
        self._options: Final = options
        self._params: Final = params
        self._finished: list[tuple[int, OutputRow]] = []

    def make_llm(self) -> BatchLLM:
        """Load the model."""
        from starr_engine.llm import LLM

        return LLM(**self._options)

    def load(self) -> WorkerInfo:
        """Load the model, in a call and not on construction so that its errors come as they are.

        Raises:
            StarrError: If the model or an option cannot be used.
        """
        llm = self.make_llm()
        config = llm.engine.config
        self._reply_rows = reply_rows(config.max_num_requests)
        self._runner = RowRunner(
            llm,
            defaults=self._params,
            on_finish=lambda index, columns: self._finished.append((index, columns)),
        )
        return WorkerInfo(config=config, process_id=os.getpid())

    def work(self, rows: Sequence[RawRow]) -> list[tuple[int, OutputRow]]:
        """Take rows in, and step until a reply is worth it or nothing is left to run.

        Args:
            rows: To run beside those of earlier calls; may be none.

        Returns:
            The rows that have finished since the last call, with their indices, in any order.

        Raises:
            StarrError: If the engine cannot go on with any row.
        """
        started = time.monotonic()
        for row in rows:
            self._runner.add(row)
        while self._runner.num_requests:
            if len(self._finished) >= self._reply_rows:
                break
            if self._finished and time.monotonic() - started > REPLY_INTERVAL_S:
                break
            self._runner.step()
        finished, self._finished = self._finished, []
        return finished


def reply_rows(max_num_requests: int) -> int:
    """Finished rows that are worth a reply: few, so that others take their places soon."""
    return max(1, max_num_requests // 4)


def capacity(max_num_requests: int) -> int:
    """Rows that keep a worker busy: a full batch, one to follow it, and what a reply is late."""
    return 2 * max_num_requests + reply_rows(max_num_requests)
