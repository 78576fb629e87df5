"""A headless Chromium, driven over its DevTools protocol."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

CHROMIUM = shutil.which("chromium")


class Page:
    """One tab.

    Args:
        connection: To its DevTools.
    """

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._numbers = itertools.count()
        self.problems: list[str] = []
        """What the page has thrown, logged as an error, or been refused by its content policy."""

        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A call of the protocol."""
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self._connection.recv(timeout=60))
            if message.get("id") == number:
                assert "error" not in message, message
                return dict(message["result"])
            if message.get("method") == "Runtime.exceptionThrown":
                self.problems.append(json.dumps(message["params"]))
            elif message.get("method") == "Log.entryAdded":
                self.problems.append(message["params"]["entry"]["text"])

    def run(self, script: str) -> Any:
        """The value of an expression."""
        result = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, condition: str) -> None:
        """Until an expression is true."""
        for _ in range(3000):
            if self.run(condition):
                return
            time.sleep(0.01)
        raise AssertionError(f"never came true: {condition}")

    def picture(self, path: Path) -> None:
        """Write what is seen as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


@contextmanager
def browsing(address: str, profile: Path) -> Iterator[Page]:
    """Open a page.

    Args:
        address: Of the page.
        profile: An empty folder.
    """
    assert CHROMIUM is not None
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
        "--disable-background-networking --disable-component-update --window-size=1180,760 "
        f"--remote-debugging-port=0 --user-data-dir={profile}"
    )
    words = [CHROMIUM, *flags.split(), "about:blank"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            port_file = profile / "DevToolsActivePort"
            while not (port_file.exists() and port_file.read_text().count("\n") >= 1):
                assert process.poll() is None, "chromium has ended"
                time.sleep(0.02)
            port = port_file.read_text().split("\n")[0]
            [tab] = [
                each
                for each in httpx.get(f"http://127.0.0.1:{port}/json").json()
                if each["type"] == "page"
            ]
            with connect(tab["webSocketDebuggerUrl"], max_size=None) as connection:
                page = Page(connection)
                page.call("Page.navigate", url=address)
                page.wait("document.readyState === 'complete'")
                yield page
        finally:
            process.terminate()
            process.wait()
