"""An engine that steps in a thread of its own, and sleeps while there is nothing to do."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Final, TypeVar

from starr_engine.engine.engine import Engine
from starr_engine.engine.progress import Change
from starr_engine.errors import EngineDeadError
from starr_engine.outputs import BlockOutput, ProvisionalOutput, RequestOutput

Event = BlockOutput | ProvisionalOutput | RequestOutput

Sink = Callable[[Event | EngineDeadError], None]
"""Called in the engine's thread with everything that happens to one request; must not block."""

_T = TypeVar("_T")

_News = tuple[Sequence[Change], Sequence[ProvisionalOutput]]
"""What a step has changed, and the active blocks that somebody wants to see after it."""

_NO_NEWS: Final[_News] = ((), ())


class EngineThread:
    """The only user of an engine; other threads hand it calls, which run between steps.

    Args:
        engine: Nobody else may use it from now on.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._calls: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._is_closing = False
        self._death: EngineDeadError | None = None
        self._sinks: dict[str, Sink] = {}
        self._wants_provisional: set[str] = set()
        self._news: _News = _NO_NEWS
        self._thread = threading.Thread(target=self._run, name="starr-engine", daemon=True)
        self._thread.start()

    def call(self, function: Callable[[Engine], _T]) -> Future[_T]:
        """Run ``function`` in the thread before its next step.

        A future that is cancelled before it has begun never runs.

        Returns:
            What it returns or raises; ``EngineDeadError`` if the engine has died or is closed.
        """
        future: Future[_T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function(self._engine))
            except BaseException as error:
                future.set_exception(error)

        with self._wake:
            if (reason := self._reason) is not None:
                future.set_exception(reason)
                return future
            self._calls.append(run)
            self._wake.notify()
        return future

    def subscribe(self, request_id: str, sink: Sink, *, provisional: bool) -> None:
        """Send what happens to a request to ``sink``; only from within a call.

        Args:
            request_id: Of a request just added.
            sink: Forgotten after the request's ``RequestOutput``.
            provisional: Whether it also gets the active block after every step.
        """
        self._sinks[request_id] = sink
        if provisional:
            self._wants_provisional.add(request_id)

    def end(self, request_id: str) -> None:
        """End a request now; its sink gets what it had committed. Only from within a call."""
        output = self._engine.abort(request_id)
        if output is not None:
            self._send(output)

    def close(self) -> None:
        """Stop after the step that runs; requests that are left end with ``EngineDeadError``."""
        with self._wake:
            self._is_closing = True
            self._wake.notify()
        self._thread.join()
        self._engine.close()

    @property
    def _reason(self) -> EngineDeadError | None:
        """Why no call can be taken."""
        if self._is_closing and self._death is None:
            return EngineDeadError("the engine is closed; make a new one")
        return self._death

    def _run(self) -> None:
        try:
            while self._wait():
                if self._calls:
                    self._tell()  # what came before a call is known before it
                    self._take_calls()
                if self._engine.has_unfinished:
                    self._step()
        except EngineDeadError as error:
            death = error
        except BaseException as error:
            death = EngineDeadError(
                f"the engine failed: {type(error).__name__}: {error}; make a new one"
            )
            death.__cause__ = error
        else:
            death = EngineDeadError("the engine was closed before this request had finished")
        self._die(death)

    def _step(self) -> None:
        """One step, and word of it: where steps overlap, while the next one runs, if there is one.

        What it has changed is known by then, and is not changed by launching another.
        """
        engine = self._engine
        if not engine.overlaps:
            self._send_all(engine.step(), self._provisional())
            return
        engine.launch()
        self._tell()
        self._news = engine.finish(), self._provisional()
        if not engine.has_unfinished:
            self._tell()

    def _tell(self) -> None:
        """Send what the last step has changed, once."""
        (changes, blocks), self._news = self._news, _NO_NEWS
        self._send_all(self._engine.outputs.collect(changes), blocks)

    def _provisional(self) -> list[ProvisionalOutput]:
        """The active blocks that somebody wants to see."""
        blocks = (self._engine.provisional(each) for each in self._wants_provisional)
        return [block for block in blocks if block is not None]

    def _send_all(
        self,
        outputs: Sequence[BlockOutput | RequestOutput],
        blocks: Sequence[ProvisionalOutput],
    ) -> None:
        for output in outputs:
            self._send(output)
        for block in blocks:
            if sink := self._sinks.get(block.request_id):
                sink(block)

    def _wait(self) -> bool:
        """Sleep until there is something to do; False when it is time to stop."""
        with self._wake:
            while not (self._calls or self._engine.has_unfinished or self._is_closing):
                self._wake.wait()
            return not self._is_closing

    def _take_calls(self) -> None:
        while self._calls:
            self._calls.popleft()()

    def _send(self, output: BlockOutput | RequestOutput) -> None:
        request_id = output.request_id
        if isinstance(output, BlockOutput):
            if sink := self._sinks.get(request_id):
                sink(output)
            return
        self._wants_provisional.discard(request_id)
        if sink := self._sinks.pop(request_id, None):
            sink(output)

    def _die(self, death: EngineDeadError) -> None:
        self._tell()
        with self._wake:
            self._death = death
        self._take_calls()  # what came before: it fails or finds the engine as it was left
        for sink in self._sinks.values():
            sink(death)
        self._sinks.clear()
