"""Server-sent events: a response that goes on until its source, the client or the time ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final, Generic, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from starr_engine.serve.disconnect import unless_gone
from starr_engine.serve.errors import server_ends
from starr_engine.serve.json_text import encode_json

T = TypeVar("T")

PING: Final = b": ping\n\n"
"""A comment, which clients skip."""

_LAST_WORDS_S: Final = 5.0
"""For the error that ends a stream to go out."""

DONE: Final = b"data: [DONE]\n\n"


def event(content: Any, name: str | None = None) -> bytes:
    """One event; JSON has no newlines, so that its data is one line."""
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    return head + b"data: " + encode_json(content) + b"\n\n"


class Patient(Generic[T]):
    """Reads a source and says so when it has been silent for a while.

    Args:
        source: Closed with this.
        patience_s: Seconds of silence before ``next`` returns None.
    """

    def __init__(self, source: AsyncGenerator[T, None], patience_s: float) -> None:
        self._source = source
        self._patience_s = patience_s
        self._next: asyncio.Task[T] | None = None

    async def next(self) -> T | None:
        """The next item, or None after the silence.

        Raises:
            StopAsyncIteration: Behind the last item. Or what the source raises.
        """
        if self._next is None:
            self._next = asyncio.create_task(self._read())
        done, _ = await asyncio.wait({self._next}, timeout=self._patience_s)
        if not done:
            return None
        task, self._next = self._next, None
        return task.result()

    async def close(self) -> None:
        """End the source, wherever it stands."""
        if self._next is not None:
            self._next.cancel()
            await asyncio.gather(self._next, return_exceptions=True)
        await self._source.aclose()

    async def _read(self) -> T:
        return await anext(self._source)


class EventStream(Response):
    """Sends the events of a source.

    Args:
        first: What its first ``next`` gave, with which the headers go out.
        source: Events, closed in every case.
        deadline: On the loop's clock; behind it the source is ended.
        on_error: The last event, for what the source or the clock has raised.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        first: bytes | None,
        source: Patient[bytes],
        *,
        deadline: float,
        on_error: Callable[[Exception], bytes],
    ) -> None:
        # Proxies that collect a response before they pass it on would undo the streaming.
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._first = first
        self._source = source
        self._deadline = deadline
        self._on_error = on_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the end.

        Raises:
            ClientGoneError: If the client closes the connection before it.
            TimeoutError: If the client does not take the error that ended the source.
        """
        try:
            await unless_gone(receive, self._send(send))
        except asyncio.CancelledError:
            await _send_body(send, event(server_ends().body))
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            raise

    async def _send(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        try:
            await send(start)
            try:
                async with asyncio.timeout_at(self._deadline):
                    await self._send_events(send)
            except Exception as error:
                await self._source.close()
                # A client that reads nothing more shall not hold this request for ever.
                async with asyncio.timeout(_LAST_WORDS_S):
                    await _send_body(send, self._on_error(error))
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await self._source.close()

    async def _send_events(self, send: Send) -> None:
        chunk = self._first
        while True:
            await _send_body(send, PING if chunk is None else chunk)
            try:
                chunk = await self._source.next()
            except StopAsyncIteration:
                return


async def _send_body(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})
