"""The server and OpenAI's client: start, wait until it is ready, ask, stream, stop.

    python examples/serve_and_call.py

Needs the packages of the extra ``serve`` and ``openai``. The server runs in a process of its own on
a free port of this machine, and takes no key because nobody else can reach it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from openai import OpenAI

MODEL = "tiny-sdar"
COMMAND = [sys.executable, "-m", "starr_engine", "serve", "--model", MODEL, "--port", "0"]
CHAIN = (
    "Ben has 20 books. Ben drops 6. Next Ben gets 8 more. Then Ben gives 6 to Rosa. "
    "How many books are left for Ben?"
)


@contextmanager
def running_server() -> Iterator[str]:
    """Serve until the block ends; gives the base address of the API."""
    server = subprocess.Popen(COMMAND, stderr=subprocess.PIPE, text=True)
    try:
        yield f"http://127.0.0.1:{wait_for_port(server)}/v1"
    finally:
        server.terminate()  # SIGTERM: what runs is finished first
        server.communicate()
        print(f"the server ended with exit code {server.returncode}")


def wait_for_port(server: subprocess.Popen[str]) -> int:
    """The port that the server's log names once it listens: port 0 takes any that is free."""
    assert server.stderr is not None
    for line in server.stderr:
        entry = json.loads(line) if line.startswith("{") else {}
        if entry.get("event") == "listening":
            return int(entry["port"])
    raise RuntimeError("the server ended before it listened")


def main() -> None:
    """A completion with what it cost, and a chat that comes block by block."""
    with running_server() as address:
        client = OpenAI(base_url=address, api_key="none")
        answer = client.completions.create(
            model=MODEL,
            prompt="Put in falling order: 2, 25, 18, 73, 60",
            max_tokens=32,
            # What OpenAI's interface does not have goes into extra_body.
            extra_body={"remasking": "threshold", "remasking_args": {"threshold": 0.95}},
        )
        assert answer.usage is not None
        choice, usage = answer.choices[0].model_dump(), answer.usage.model_dump()
        print(f"{choice['text']}: {choice['cache_label']}, {usage['denoising_steps']} forwards")

        stream = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": CHAIN}], stream=True
        )
        for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                print(f"block: {chunk.choices[0].delta.content!r}")


if __name__ == "__main__":
    main()
