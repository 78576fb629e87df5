"""What a batch job did, counted while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSummary:
    """The numbers of a finished job; a resumed job's include the rows of earlier runs."""

    output: Path

    num_rows: int
    """Rows of the output, those with an error included."""

    num_errors: int

    num_resumed: int
    """Rows that earlier runs had finished."""

    mean_nfe: float
    """Model forwards per row without error, those of all its samples; 0 if there is none."""

    tpf: float
    """Unmasked positions of all rows / forwards of all rows."""

    tokens_per_s: float
    """Generated tokens, EOS and what follows left out, per second of this run."""

    wall_s: float
    """Of this run, from the first row on; without loading the model."""


class Tally:
    """Adds up finished rows.

    Args:
        clock: Seconds; replaced in tests.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._started: float | None = None
        self.num_rows = 0
        self.num_errors = 0
        self.num_resumed = 0
        self.num_forwards = 0
        self._num_unmasked = 0.0
        self.num_tokens = 0

    def add(self, row: Mapping[str, Any], *, resumed: bool = False) -> None:
        """Count one row of the output; its tokens count for the speed unless ``resumed``."""
        self.num_rows += 1
        self.num_resumed += resumed
        if row["error"] is not None:
            self.num_errors += 1
            return
        for sample in row.get("samples") or (row,):
            self.num_forwards += sample["nfe"]
            self._num_unmasked += sample["tpf"] * sample["nfe"]
            if not resumed:
                self.num_tokens += len(sample["token_ids"])

    def start_clock(self) -> None:
        """From here on seconds count."""
        self._started = self._clock()

    @property
    def wall_s(self) -> float:
        """Seconds since :meth:`start_clock`; 0 before."""
        return 0.0 if self._started is None else self._clock() - self._started

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens of this run per second."""
        return self.num_tokens / wall_s if (wall_s := self.wall_s) else 0.0

    @property
    def tpf(self) -> float:
        """Unmasked positions per forward over all rows; 0 before the first."""
        return self._num_unmasked / self.num_forwards if self.num_forwards else 0.0

    def summary(self, output: Path) -> BatchSummary:
        """The numbers as they stand."""
        good = self.num_rows - self.num_errors
        return BatchSummary(
            output=output,
            num_rows=self.num_rows,
            num_errors=self.num_errors,
            num_resumed=self.num_resumed,
            mean_nfe=self.num_forwards / good if good else 0.0,
            tpf=self.tpf,
            tokens_per_s=self.tokens_per_s,
            wall_s=self.wall_s,
        )
