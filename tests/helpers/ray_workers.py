"""Workers with the fake engine, some of which rows can kill; importable by the actors."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

from starr_engine.distributed.worker import EngineWorker
from starr_engine.errors import ConfigError
from starr_engine.offline.rows import RawRow
from starr_engine.offline.runner import BatchLLM, OutputRow
from tests.helpers.fake_llm import FakeLLM

KILLER = "KILLER"
"""A prompt with this word ends the process of a fatal worker."""

CRASHER = "CRASHER"
"""A prompt with this word makes it raise something that is nobody's plan."""


class FakeWorker(EngineWorker):
    """The fake engine, as fast as it can."""

    STEP_S = 0.0

    def make_llm(self) -> BatchLLM:
        return FakeLLM(
            batch_size=self._options["max_num_requests"],
            step_s=self.STEP_S,
            model=self._options["model"],
        )


class SlowWorker(FakeWorker):
    """Slow enough that a test can see the journal grow and aim."""

    STEP_S = 0.005


class FatalWorker(FakeWorker):
    """Dies of the rows that say so."""

    def work(self, rows: Sequence[RawRow]) -> list[tuple[int, OutputRow]]:
        for row in rows:
            prompt = str(row.columns.get("prompt"))
            if KILLER in prompt:
                os.kill(os.getpid(), signal.SIGKILL)
            if CRASHER in prompt:
                raise MemoryError("no such luck")
        return super().work(rows)


class BrokenWorker(FakeWorker):
    """Cannot load its model."""

    def make_llm(self) -> BatchLLM:
        raise ConfigError("there is no such model")


class DyingWorker(FakeWorker):
    """Dies of loading its model."""

    def make_llm(self) -> BatchLLM:
        os.kill(os.getpid(), signal.SIGKILL)
        return super().make_llm()
