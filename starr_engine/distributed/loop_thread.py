"""An event loop in a thread of its own, which knows all its tasks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final

from starr_engine.errors import EngineDeadError


class LoopThread:
    """Runs functions and tasks; :meth:`spawn` is for its own thread, the others for any other.

    Args:
        name: Of the thread.
        on_error: Told in the thread of what a task has raised.
    """

    def __init__(self, name: str, on_error: Callable[[BaseException], None]) -> None:
        self.loop: Final = asyncio.new_event_loop()
        self._on_error: Final = on_error
        self._tasks: Final[set[asyncio.Task[None]]] = set()
        self._thread: Final = threading.Thread(target=self.loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def call(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call a function soon.

        Raises:
            EngineDeadError: If the loop is closed.
        """
        try:
            self.loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError as error:
            raise EngineDeadError("the engine is closed; make a new one") from error

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin a task."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._reap)
        return task

    def close(self, last_words: Callable[[], None]) -> None:
        """Call a function, cancel all tasks, and end; a second call does nothing."""
        if self.loop.is_closed():
            return

        async def end() -> None:
            last_words()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def _reap(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_error(error)
