"""The progress bar of a calibration."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self, TextIO

from tqdm import tqdm


class SearchProgress:
    """Evaluations done and what they are for, on standard error.

    An evaluation is one setting on one prompt. Their number is known only roughly beforehand: how
    many settings the front will have is not.

    Args:
        planned: Expected evaluations.
        enabled: False shows nothing.
        stream: Where to; None is standard error.
    """

    def __init__(self, planned: int, *, enabled: bool, stream: TextIO | None = None) -> None:
        stream = stream or sys.stderr
        self._bar = tqdm(
            total=planned,
            unit="eval",
            file=stream,
            disable=not enabled,
            mininterval=0.2 if stream.isatty() else 10.0,
            dynamic_ncols=True,
        )

    def stage(self, text: str, done: int, total: int) -> None:
        """Begin a part of the work.

        Args:
            text: What it is.
            done: Evaluations finished so far, those of earlier runs included.
            total: Expected over all parts.
        """
        self._bar.set_description(text, refresh=False)
        self._bar.total = max(total, done)
        if not self._bar.n:
            self._bar.initial = done  # so that the rate is that of this run
        self._bar.update(done - self._bar.n)

    def update(self) -> None:
        """One more evaluation."""
        self._bar.update()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.close()
