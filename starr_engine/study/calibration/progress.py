"""The progress bar of a calibration."""

from __future__ import annotations

from typing import TextIO

from starr_engine.offline.progress import Bar


class SearchProgress(Bar):
    """Evaluations done and what they are for.

    An evaluation is one setting on one prompt. Their number is known only roughly beforehand: how
    many settings the front will have is not.

    Args:
        planned: Expected evaluations.
        enabled: False shows nothing.
        stream: Where to; None is standard error.
    """

    def __init__(self, planned: int, *, enabled: bool, stream: TextIO | None = None) -> None:
        super().__init__(planned, "eval", enabled=enabled, stream=stream)

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
