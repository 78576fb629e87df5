"""Clients that go, requests that hang, an engine that dies, a server that is told to end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from starr_engine import AsyncLLM, BlockOutput, EngineDeadError
from starr_engine.engine.engine import Engine
from tests.helpers.servers import Running, logged, running, stoppable_steps

ROOT = Path(__file__).parents[2]
BODY = {"prompt": "2 + 3 =", "max_tokens": 64, "block_length": 16, "ignore_eos": True}


def make_engine() -> AsyncLLM:
    return AsyncLLM("tiny-llada", num_threads=1, canvas_cache=0)


@pytest.fixture(scope="module")
def engine() -> Iterator[AsyncLLM]:
    with closing(make_engine()) as made:
        yield made


@pytest.fixture
def mortal() -> Iterator[AsyncLLM]:
    with closing(make_engine()) as made:
        yield made


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    with stoppable_steps(monkeypatch) as event:
        yield event


@pytest.fixture
def stops_at_block(stopped: threading.Event, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """The engine stops as soon as it has committed a block."""
    step = Engine.step

    def stepped(self: Engine) -> Any:
        outputs = step(self)
        if any(isinstance(each, BlockOutput) for each in outputs):
            stopped.set()
        return outputs

    monkeypatch.setattr(Engine, "step", stepped)
    return stopped


def post(served: Running, **fields: Any) -> httpx.Response:
    return httpx.post(f"{served.url}/v1/completions", json=BODY | fields, timeout=60)


@contextmanager
def all_given_back(served: Running, num_aborted: int) -> Iterator[None]:
    """So many requests are ended in the block, and their pages are free after it."""
    before = served.stats().num_aborted
    yield
    stats = served.wait_until_idle()
    assert stats.num_aborted == before + num_aborted
    assert stats.num_free_pages == stats.num_pages


def test_a_client_that_goes_while_it_waits_ends_its_request(engine, stopped):
    with running(engine) as served, all_given_back(served, 1):
        stopped.set()
        with socket.create_connection(("127.0.0.1", served.port)) as client:
            body = json.dumps(BODY).encode()
            head = (
                "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n"
                f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            )
            client.sendall(head.encode() + body)
            served.wait_for(1)


@pytest.mark.parametrize("fields", [{}, {"n": 3, "temperature": 1.0}, {"prompt": ["a", "b"]}])
def test_a_client_that_goes_during_a_stream_ends_all_its_choices(engine, stops_at_block, fields):
    choices = max(fields.get("n", 1), len(fields.get("prompt", "x")))
    with running(engine) as served, all_given_back(served, choices):
        body = BODY | fields | {"stream": True}
        with httpx.stream("POST", f"{served.url}/v1/completions", json=body) as answer:
            assert next(answer.iter_lines()).startswith("data: {")


def test_one_of_many_prompts_that_is_refused_ends_the_others(engine, stopped):
    with running(engine) as served:
        stopped.set()
        answer = post(served, prompt=["a", "<|mdm_mask|>"])
        assert answer.status_code == 400
        stream = post(served, prompt=["a", "<|mdm_mask|>"], stream=True)
        assert stream.status_code == 400
        assert served.wait_until_idle().num_free_pages == served.stats().num_pages


def test_a_request_that_takes_too_long_ends_with_an_error(engine, stopped):
    with running(engine, request_timeout_s=0.1) as served, all_given_back(served, 2):
        stopped.set()
        answer = post(served)
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
        assert post(served, stream=True).status_code == 504


def test_a_stream_that_takes_too_long_ends_with_an_error_event(engine, stops_at_block):
    with running(engine, request_timeout_s=1.0) as served, all_given_back(served, 1):
        answer = post(served, stream=True)
        assert answer.status_code == 200
        first, last = answer.text.split("\n\n")[0], answer.text.split("\n\n")[-2]
        assert json.loads(first.removeprefix("data: "))["choices"][0]["block_index"] == 0
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "timeout"
        assert "[DONE]" not in answer.text


def test_a_silent_stream_sends_comments(engine, stopped):
    with running(engine, ping_s=0.05) as served:
        stopped.set()
        body = BODY | {"stream": True}
        with httpx.stream("POST", f"{served.url}/v1/completions", json=body) as answer:
            lines = answer.iter_lines()
            assert next(lines) == ": ping"
            stopped.clear()
            rest = list(lines)
        assert rest[-2:] == ["data: [DONE]", ""]


class Flood:
    """An engine whose streams never end, a megabyte a block; the rest of it is another's."""

    def __init__(self, engine: AsyncLLM) -> None:
        self._engine = engine
        self.num_blocks = 0
        self.is_closed = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def stream(self, *args: Any, request_id: str, **options: Any) -> AsyncGenerator[Any]:
        block = {"block_index": 0, "token_ids": (), "num_forwards": 1, "text": "x" * (1 << 20)}
        try:
            while True:
                self.num_blocks += 1
                yield BlockOutput(request_id=request_id, **block)
        finally:
            self.is_closed.set()


def test_a_client_that_stops_reading_is_not_written_to_for_ever(engine, monkeypatch):
    monkeypatch.setattr("starr_engine.serve.event_stream._LAST_WORDS_S", 0.1)
    flood = Flood(engine)
    body = json.dumps(BODY | {"stream": True}).encode()
    with running(flood, request_timeout_s=0.5, max_requests=1) as served, logged() as lines:
        with socket.create_connection(("127.0.0.1", served.port)) as client:
            head = (
                "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n"
                f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            )
            client.sendall(head.encode() + body)
            assert flood.is_closed.wait(30)
            while not (ended := [line for line in lines() if line["event"] == "request"]):
                flood.is_closed.wait(0)
            assert ended[0]["error"] == "timeout"
        # What the kernel takes, and no more: the server does not run ahead of its client.
        assert flood.num_blocks < 32
        assert post(served, request_timeout=1).status_code == 400  # the place is free again


def test_an_engine_that_dies_takes_the_server_with_it(mortal, stopped, monkeypatch):
    with running(mortal) as served, ThreadPoolExecutor(2) as pool:
        stopped.set()
        calls = [pool.submit(post, served), pool.submit(post, served, stream=True)]
        served.wait_for(2)

        def fail(self: Engine) -> None:
            raise RuntimeError("cuda at /secret")

        monkeypatch.setattr(Engine, "step", fail)
        for call in calls:
            answer = call.result()
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_dead")
            assert "secret" not in answer.text
        served.thread.join(30)
        assert not served.thread.is_alive()
        assert [type(error) for error in served.errors] == [EngineDeadError]


def test_an_idle_servers_health_finds_a_dead_engine(mortal):
    with running(mortal) as served:
        mortal.close()
        assert httpx.get(f"{served.url}/health").status_code == 503
        served.thread.join(30)
        assert not served.thread.is_alive()


def test_a_server_that_is_told_to_end_finishes_what_runs(engine, stopped):
    with running(engine, drain_s=60) as served, ThreadPoolExecutor(1) as pool:
        stopped.set()
        call = pool.submit(post, served)
        served.wait_for(1)
        with httpx.Client(base_url=served.url) as http:
            assert http.get("/ready").status_code == 200
            served.end()
            while _takes_connections(served.port):
                pass
        assert not call.done()
        stopped.clear()
        assert call.result().status_code == 200
        served.thread.join(30)
        assert not served.thread.is_alive()


def test_what_is_left_after_the_drain_is_cancelled(engine, stopped):
    with (
        running(engine, drain_s=0) as served,
        all_given_back(served, 1),
        ThreadPoolExecutor(1) as pool,
    ):
        stopped.set()
        call = pool.submit(post, served)
        served.wait_for(1)
        served.end()
        answer = call.result()
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "shutdown")


def test_a_stream_that_is_cut_off_by_the_end_says_so(engine, stops_at_block):
    with running(engine, drain_s=0) as served, all_given_back(served, 1):
        body = BODY | {"stream": True}
        with httpx.stream("POST", f"{served.url}/v1/completions", json=body) as answer:
            lines = answer.iter_lines()
            assert "block_index" in next(lines)
            served.end()
            last = [line for line in lines if line][-1]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "shutdown"


def _takes_connections(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def test_the_command_serves_until_sigterm_and_then_ends_with_0() -> None:
    words = [sys.executable, "-m", "starr_engine", "serve", "--port", "0", "--num-threads", "1"]
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = json.loads(process.stderr.readline())
            assert (line["event"], line["host"]) == ("listening", "127.0.0.1")
            url = f"http://127.0.0.1:{line['port']}"
            body = {"prompt": "2 + 3 =", "model": "tiny-llada"}
            assert httpx.post(f"{url}/v1/completions", json=body).status_code == 200
            os.kill(process.pid, signal.SIGTERM)
            assert process.wait(60) == 0
            rest = process.stderr.read()
            assert "Traceback" not in rest
        finally:
            process.kill()
