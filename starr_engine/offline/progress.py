"""Progress bars: what all have in common, and that of a batch job."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

from tqdm import tqdm

from starr_engine.offline.summary import Tally


class Bar:
    """A bar on standard error that closes at the end of a ``with`` statement.

    On a terminal it redraws itself; into a file or a pipe it writes at most every ten seconds.

    Args:
        total: What is expected.
        unit: Of ``total``.
        enabled: False shows nothing.
        stream: Where to; None is standard error.
    """

    def __init__(
        self, total: int, unit: str, *, enabled: bool, stream: TextIO | None = None
    ) -> None:
        stream = stream or sys.stderr
        self._bar = tqdm(
            total=total,
            unit=unit,
            file=stream,
            disable=not enabled,
            mininterval=0.2 if stream.isatty() else 10.0,
            dynamic_ncols=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.close()


class Progress(Bar):
    """Rows done, tokens per second and TPF.

    Args:
        num_rows: Of the whole input.
        tally: What is shown.
        enabled: False shows nothing.
        note: Gives what is shown behind the numbers; asked at each update.
        stream: Where to; None is standard error.
    """

    def __init__(
        self,
        num_rows: int,
        tally: Tally,
        *,
        enabled: bool,
        note: Callable[[], str] = str,
        stream: TextIO | None = None,
    ) -> None:
        super().__init__(num_rows, "row", enabled=enabled, stream=stream)
        self._tally = tally
        self._note = note

    def start(self) -> None:
        """Begin at the rows that earlier runs have finished."""
        self._bar.update(self._tally.num_rows - self._bar.n)
        self._bar.initial = self._tally.num_resumed  # so that the rate is that of this run

    def update(self) -> None:
        """Show the tally as it stands."""
        tally = self._tally
        self._bar.set_postfix_str(
            f"{tally.tokens_per_s:.0f} tokens/s, TPF {tally.tpf:.2f}"
            + (f", {tally.num_errors} errors" if tally.num_errors else "")
            + (f", {note}" if (note := self._note()) else ""),
            refresh=False,
        )
        self._bar.update(tally.num_rows - self._bar.n)
