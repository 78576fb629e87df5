"""A thin HTTP/1.1 client for load: what it costs must not be taken for the server's cost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self


class Connection:
    """One kept-alive connection to a server on loopback.

    Args:
        port: Of the server.
    """

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._writer.transport.abort()

    async def request(
        self, path: str, body: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, str]]:
        """Send a request, and read the head of its answer.

        Args:
            path: Of the address.
            body: None sends a GET.

        Returns:
            Status and headers.
        """
        data = b"" if body is None else json.dumps(body).encode()
        head = (
            f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nhost: localhost\r\n"
            f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        )
        self._writer.write(head.encode() + data)
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        pairs = (line.split(": ", 1) for line in lines[1:] if line)
        return int(lines[0].split()[1]), {name.lower(): value for name, value in pairs}

    async def content(self, headers: dict[str, str]) -> bytes:
        """The body of an answer that has a length."""
        return await self._reader.readexactly(int(headers["content-length"]))

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body of an answer without a length, as it comes."""
        while size := int((await self._reader.readuntil(b"\r\n")), 16):
            yield (await self._reader.readexactly(size + 2))[:-2]
        await self._reader.readexactly(2)


async def get(port: int, path: str) -> bytes:
    """The body of one address."""
    async with Connection(port) as connection:
        _, headers = await connection.request(path)
        return await connection.content(headers)
