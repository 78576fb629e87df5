"""A real server in a thread: uvicorn on a free port of loopback, in front of a shipped model."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from starr_engine import AsyncLLM
from starr_engine.engine.engine import Engine
from starr_engine.engine.stats import EngineStats
from starr_engine.errors import StarrError
from starr_engine.serve.app import make_app
from starr_engine.serve.config import ServeConfig
from starr_engine.serve.logs import LOGGER, JsonLines
from starr_engine.serve.protocol import Fleet, ServedEngine
from starr_engine.serve.server import Listening, Server, bind


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A server that answers."""

    url: str
    port: int
    engine: Any
    server: Server
    thread: threading.Thread
    errors: list[StarrError]
    """What the server has ended with."""

    def stats(self) -> EngineStats:
        """Of the engine, now."""
        return asyncio.run(self.engine.stats())

    def wait_for(self, num_requests: int) -> None:
        """Until the engine holds so many, waiting ones included."""
        self._wait(lambda stats: stats.num_running + stats.num_waiting >= num_requests)

    def wait_until_idle(self) -> EngineStats:
        """The engine's numbers once no request is left in it."""
        return self._wait(lambda stats: stats.num_running + stats.num_waiting == 0)

    def _wait(self, is_there: Callable[[EngineStats], bool]) -> EngineStats:
        for _ in range(3000):
            stats = self.stats()
            if is_there(stats):
                return stats
            time.sleep(0.01)
        raise AssertionError(f"the engine is stuck at {stats}")

    def end(self) -> None:
        """As SIGTERM does."""
        self.server.handle_exit(15, None)


@contextmanager
def running(
    engine: ServedEngine | None = None,
    *,
    fleet: Fleet | None = None,
    drain_s: int = 5,
    **settings: Any,
) -> Iterator[Running]:
    """Serve until the block ends.

    Args:
        engine: None makes one of tiny-llada, and closes it.
        fleet: The engine once more, if it stands for several.
        drain_s: For what still runs at the end.
        settings: Of ``ServeConfig``.
    """
    own = AsyncLLM("tiny-llada", num_threads=1) if engine is None else None
    config = ServeConfig(**({"served_model": "tiny-llada"} | settings))
    listening = Listening(port=0, drain_s=drain_s)
    served: Any = engine or own
    with bind(listening) as bound:
        server = Server(make_app(served, config, fleet), listening)
        port = bound.getsockname()[1]
        errors: list[StarrError] = []
        thread = threading.Thread(target=_serve, args=(server, bound, errors), name="server")
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), "the server has not come up"
                thread.join(0.01)
            yield Running(
                url=f"http://127.0.0.1:{port}",
                port=port,
                engine=served,
                server=server,
                thread=thread,
                errors=errors,
            )
        finally:
            server.handle_exit(15, None)
            thread.join()
            if own is not None:
                own.close()


@contextmanager
def stoppable_steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """While the event is set, engines take calls and make no step."""
    stopped, step = threading.Event(), Engine.step

    def step_unless_stopped(self: Engine) -> Any:
        if not stopped.is_set():
            return step(self)
        time.sleep(0.001)  # leave the interpreter to others
        return []

    monkeypatch.setattr(Engine, "step", step_unless_stopped)
    yield stopped
    stopped.clear()


@contextmanager
def logged() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Gives the server's log so far, as objects."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    handler = Keep()
    handler.setFormatter(JsonLines())
    level, propagate = LOGGER.level, LOGGER.propagate
    LOGGER.addHandler(handler)
    LOGGER.setLevel("DEBUG")
    LOGGER.propagate = False
    try:
        yield lambda: [json.loads(line) for line in lines]
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(level)
        LOGGER.propagate = propagate


def _serve(server: Server, bound: socket.socket, errors: list[StarrError]) -> None:
    try:
        server.run(sockets=[bound])
    except StarrError as error:
        errors.append(error)
