"""The outputs of some requests, as they come."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from starr_engine.engine.engine import Engine
from starr_engine.outputs import BlockOutput, RequestOutput


class OutputStream(Iterator[BlockOutput | RequestOutput]):
    """Steps the engine whenever the next output is asked for and not there yet.

    Requests that are unfinished when the stream is closed, left by its ``with`` statement or
    forgotten are aborted, also when nothing was ever read.

    Args:
        engine: Steps for all its requests; this stream should be the only one that reads it.
        request_ids: Added to it before.
    """

    def __init__(self, engine: Engine, request_ids: Sequence[str]) -> None:
        self._engine = engine
        self._unfinished = set(request_ids)
        self._ready: deque[BlockOutput | RequestOutput] = deque()

    def __next__(self) -> BlockOutput | RequestOutput:
        # The engine runs dry early if someone else has aborted a request of this stream.
        while not self._ready and self._unfinished and self._engine.has_unfinished:
            try:
                self._ready.extend(self._engine.step())
            except BaseException:
                self.close()  # an interrupt too: the engine stays usable
                raise
        if not self._ready:
            raise StopIteration
        output = self._ready.popleft()
        if isinstance(output, RequestOutput):
            self._unfinished.discard(output.request_id)
        return output

    def close(self) -> None:
        """Abort what is unfinished and give nothing more; repeating it does nothing."""
        for request_id in self._unfinished:
            self._engine.abort(request_id)
        self._unfinished.clear()
        self._ready.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
