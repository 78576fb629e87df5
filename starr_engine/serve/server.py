"""An app behind a socket, from the first request to the last one answered."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

import uvicorn
from fastapi import FastAPI

from starr_engine.errors import ConfigError, EngineDeadError
from starr_engine.serve.logs import log

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_KEEP_ALIVE_S: Final = 75
"""Longer than the 60 seconds of common load balancers: the side that may send closes first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Where and how a server listens.

    Raises:
        ConfigError: If only one half of the TLS pair is given.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    """0 takes a free one."""

    tls_cert: Path | None = None
    """Certificate chain in PEM; None serves plain HTTP."""

    tls_key: Path | None = None

    drain_s: int = 30
    """Seconds that running requests have to finish once the server is told to end."""

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("TLS needs a certificate and its key; give both or neither")
        if self.drain_s < 0:
            raise ConfigError(f"drain_s must be at least 0, got {self.drain_s!r}")


def bind(listening: Listening) -> socket.socket:
    """Take the port, before time is spent on loading a model; nobody can connect yet.

    Raises:
        ConfigError: If it cannot be had.
    """
    host = listening.host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, listening.port))
    except (OSError, OverflowError) as error:
        bound.close()
        raise ConfigError(
            f"port {listening.port} of {listening.host} cannot be had: {error}; choose another"
        ) from error
    return bound


class Server(uvicorn.Server):
    """Serves an app until it is told to end, or its engine has failed.

    SIGINT and SIGTERM, in the main thread, end it in order: the port is closed, running requests
    finish, at most for ``drain_s`` seconds, and what is left is cancelled. A second one cancels at
    once. It does not close the engine.

    Args:
        app: Of ``make_app``.
        listening: As it was bound.

    Raises:
        ConfigError: If the certificate or its key cannot be used.
    """

    def __init__(self, app: FastAPI, listening: Listening) -> None:
        self._app = app
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="off",
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=listening.drain_s,
                ssl_certfile=listening.tls_cert,
                ssl_keyfile=listening.tls_key,
            )
        )
        try:
            self.config.load()
        except OSError as error:
            raise ConfigError(
                f"the certificate {listening.tls_cert} and the key {listening.tls_key} cannot be "
                f"used: {error}"
            ) from error

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve on bound sockets.

        Raises:
            EngineDeadError: If it ended because the engine had failed.
        """
        watch = asyncio.create_task(self._end_with_engine())
        try:
            await super().serve(sockets)
        finally:
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch
        if self._app.state.engine_died.is_set():
            raise EngineDeadError("the engine has failed, so the server has ended; start it anew")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and say where."""
        await super().startup(sockets)
        for each in sockets or ():
            host, port = each.getsockname()[:2]
            log("listening", host=host, port=port)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Note signals without raising them again: the caller has an engine to close."""
        try:
            previous = {each: signal.signal(each, self.handle_exit) for each in _SIGNALS}
        except ValueError:  # not the main thread: Python delivers no signals there
            previous = {}
        try:
            yield
        finally:
            for each, handler in previous.items():
                signal.signal(each, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End in order; at once if that was asked for before."""
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True
        self._app.state.is_draining = True

    async def _end_with_engine(self) -> None:
        await self._app.state.engine_died.wait()
        log("engine dead", logging.ERROR)
        self.handle_exit(0, None)
