"""Who may use the server, how much, and what strangers learn from it."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from starr_engine import AsyncLLM, ConfigError
from starr_engine.cli.main import make_parser
from starr_engine.cli.serve import serve_config
from starr_engine.engine.engine import Engine
from starr_engine.serve.app import make_app
from starr_engine.serve.config import ServeConfig
from starr_engine.serve.keys import find_key, parse_keys, read_keys
from starr_engine.serve.server import Listening, Server, bind
from tests.helpers.servers import Running, logged, running, stoppable_steps

ANN, BOB = "ann-0123456789abcdef", "bob-0123456789abcdef"
KEYS = parse_keys(f"# team\nann {ANN}\n\nbob {BOB}\n", "test")
BODY = {"prompt": "2 + 3 =", "max_tokens": 16, "block_length": 16}


@pytest.fixture(scope="module")
def engine() -> Iterator[AsyncLLM]:
    with closing(AsyncLLM("tiny-llada", num_threads=1)) as made:
        yield made


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    with stoppable_steps(monkeypatch) as event:
        yield event


def auth(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def post(served: Running, body: Any = BODY, **options: Any) -> httpx.Response:
    return httpx.post(f"{served.url}/v1/completions", json=body, timeout=60, **options)


def test_keys_are_read_from_lines_and_found_by_their_text():
    assert [key.name for key in KEYS] == ["ann", "bob"]
    assert find_key(KEYS, BOB) == KEYS[1]
    assert find_key(KEYS, BOB[:-1]) is None
    assert find_key(KEYS, "") is None
    assert ANN not in repr(KEYS)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "holds no API key"),
        ("ann short", "at least 16"),
        (ANN, "expected NAME KEY"),
        (f"ann {ANN}\nann {BOB}", "name comes twice"),
        (f"ann {ANN}\nbob {ANN}", "key comes twice"),
    ],
)
def test_malformed_keys_are_refused_without_showing_them(text: str, problem: str):
    with pytest.raises(ConfigError, match=problem) as caught:
        parse_keys(text, "keys.txt")
    assert ANN not in str(caught.value)


def test_a_key_file_that_everybody_can_read_is_refused(tmp_path: Path, monkeypatch):
    path = tmp_path / "keys"
    path.write_text(f"ann {ANN}\n")
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 640"):
        read_keys(path, None)
    path.chmod(0o600)
    monkeypatch.setenv("MY_KEYS", f"bob {BOB}")
    assert read_keys(path, "MY_KEYS") == KEYS
    monkeypatch.setenv("MY_KEYS", f"ann {BOB}")
    with pytest.raises(ConfigError, match="in common"):
        read_keys(path, "MY_KEYS")
    with pytest.raises(ConfigError, match="no variable OTHER"):
        read_keys(None, "OTHER")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_keys(tmp_path / "absent", None)


def test_without_a_key_only_harmless_addresses_answer(engine):
    with running(engine, api_keys=KEYS) as served, httpx.Client(base_url=served.url) as http:
        for path in ("/health", "/ready", "/version", "/", "/openapi.json"):
            assert http.get(path).status_code == 200, path
        for path in ("/v1/models", "/metrics", "/v1/completions", "/nothing"):
            answer = http.get(path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
            assert answer.headers["www-authenticate"] == "Bearer"
        for wrong in (
            auth("x"),
            {"authorization": "Bearer"},
            auth(ANN + "x"),
            {"authorization": f"Basic {ANN}"},
        ):
            assert post(served, headers=wrong).status_code == 401
        assert http.get("/metrics", headers=auth(ANN)).status_code == 200
        assert post(served, headers=auth(ANN)).status_code == 200
        # No key is asked for before the body is looked at: strangers cannot fill memory.
        assert http.post("/v1/completions", content=b"x" * 100).status_code == 401


def test_one_key_has_its_places_and_leaves_those_of_others_alone(engine, stopped):
    limits = {"api_keys": KEYS, "max_requests_per_key": 2}
    with running(engine, **limits) as served, ThreadPoolExecutor(3) as pool:
        stopped.set()
        anns = [pool.submit(post, served, headers=auth(ANN)) for _ in range(2)]
        served.wait_for(2)
        refused = post(served, headers=auth(ANN))
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_requests")
        assert refused.headers["retry-after"] == "1"
        bob = pool.submit(post, served, headers=auth(BOB))
        served.wait_for(3)
        stopped.clear()
        assert [each.result().status_code for each in (*anns, bob)] == [200] * 3
        assert post(served, headers=auth(ANN)).status_code == 200


def test_a_full_server_says_that_it_is_full(engine, stopped):
    with running(engine, max_requests=1) as served, ThreadPoolExecutor(1) as pool:
        stopped.set()
        first = pool.submit(post, served)
        served.wait_for(1)
        refused = post(served)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
        assert httpx.get(f"{served.url}/ready").status_code == 200
        stopped.clear()
        assert first.result().status_code == 200


def test_a_long_body_is_refused_however_it_comes(engine):
    with running(engine, max_body_bytes=1000) as served:
        assert post(served).status_code == 200
        long = {"prompt": "x" * 1000}
        for answer in (
            post(served, long),
            httpx.post(
                f"{served.url}/v1/completions",
                content=iter([b"x" * 400] * 4),
                headers={"content-type": "application/json"},
            ),
        ):
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_long")


def test_a_body_that_does_not_come_is_not_waited_for(engine):
    with (
        running(engine, body_timeout_s=0.1) as served,
        socket.create_connection(("127.0.0.1", served.port)) as client,
    ):
        client.sendall(
            b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n"
            b"content-type: application/json\r\ncontent-length: 9\r\n\r\n{"
        )
        client.settimeout(30)
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 408")


def test_other_names_of_the_server_are_refused(engine):
    with running(engine) as served, httpx.Client(base_url=served.url) as http:
        for name in ("localhost", "127.0.0.1:99", "LocalHost:80", "[::1]", "[::1]:80"):
            assert http.get("/version", headers={"host": name}).status_code == 200, name
        for name in ("evil.example", "localhost.evil.example", "", "[::2]:80"):
            answer = http.get("/version", headers={"host": name})
            assert answer.status_code == 403, name
    with running(engine, allowed_hosts=None) as served:
        answer = httpx.get(f"{served.url}/version", headers={"host": "a.example"})
        assert answer.status_code == 200


def test_a_form_of_another_site_cannot_post(engine):
    with running(engine) as served:
        text = json.dumps(BODY)
        for kind in ("text/plain", "application/x-www-form-urlencoded", None):
            headers = {} if kind is None else {"content-type": kind}
            answer = httpx.post(f"{served.url}/v1/completions", content=text, headers=headers)
            assert answer.status_code == 400
            assert "application/json" in answer.json()["error"]["message"]
        preflight = httpx.options(f"{served.url}/v1/completions", headers={"origin": "http://x"})
        assert preflight.status_code == 405
        assert "access-control-allow-origin" not in preflight.headers


def test_a_failure_inside_tells_the_client_nothing_and_the_log_everything(engine, monkeypatch):
    async def fail(*args: Any, **options: Any) -> None:
        raise ValueError("/secret/path")

    monkeypatch.setattr(AsyncLLM, "generate", fail)
    with running(engine) as served, logged() as lines:
        answer = post(served)
        assert answer.status_code == 500
        assert "secret" not in answer.text
        assert "Traceback" not in answer.text
        record = next(line for line in lines() if line["event"] == "internal error")
        assert "ValueError: /secret/path" in record["traceback"]
        assert record["request_id"] == answer.headers["x-request-id"]
        assert post(served).status_code == 500  # and goes on


@pytest.mark.parametrize("log_text", [False, True])
def test_the_log_has_the_cost_of_a_request_and_its_text_only_if_asked(engine, log_text: bool):
    body = {"prompt": "2 + 3 =\n", "max_tokens": 16, "block_length": 16}
    with logged() as lines:
        with running(engine, api_keys=KEYS, log_text=log_text) as served:
            answer = post(served, body, headers=auth(ANN))
        [line] = [line for line in lines() if line["event"] == "request"]
    assert line["request_id"] == answer.headers["x-request-id"]
    assert (line["path"], line["status"], line["key"]) == ("/v1/completions", 200, "ann")
    assert line["denoising_steps"] == answer.json()["usage"]["denoising_steps"]
    assert line["finish_reasons"] == [answer.json()["choices"][0]["finish_reason"]]
    assert ("text" in line) == log_text
    if log_text:
        assert line["text"]["outputs"] == [answer.json()["choices"][0]["text"]]
    else:
        assert "2 + 3" not in json.dumps(line)
    assert ANN not in json.dumps(line)


def test_keys_do_not_meet_in_the_caches(engine, monkeypatch):
    seen: list[str] = []
    add = Engine.add_request

    def note(self: Engine, ids: Any, params: Any, *args: Any, **options: Any) -> str:
        seen.append(params.cache_salt)
        return add(self, ids, params, *args, **options)

    monkeypatch.setattr(Engine, "add_request", note)
    with running(engine, api_keys=KEYS) as served:
        post(served, headers=auth(ANN))
        post(served, headers=auth(BOB))
        post(served, BODY | {"cache_salt": "s"}, headers=auth(BOB))
    assert seen == ["ann/", "bob/", "bob/s"]


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--host", "0.0.0.0"], "give --api-key-file"),
        (["--max-requests", "0"], "max_requests must be an integer >= 1"),
        (["--request-timeout", "nan"], "request_timeout_s"),
        (["--remasking", "star"], "did you mean"),
        (["--api-key-env", "NOT_THERE"], "no variable"),
    ],
)
def test_flags_that_cannot_be_used_are_refused(flags: list[str], problem: str):
    with pytest.raises(Exception, match=problem):
        serve_config(make_parser("serve").parse_args(["serve", *flags]))


def test_flags_become_settings(tmp_path: Path):
    path = tmp_path / "keys"
    path.write_text(f"ann {ANN}\n")
    path.chmod(0o600)
    parse = make_parser("serve").parse_args
    plain = serve_config(parse(["serve"]))
    assert plain == ServeConfig(served_model="tiny-llada")
    words = ["serve", "--host", "0.0.0.0", "--api-key-file", str(path), "--max-tokens", "9"]
    remote = serve_config(parse([*words, "--served-model-name", "m", "--no-page"]))
    assert remote.allowed_hosts is None
    assert remote.api_keys == KEYS[:1]
    assert remote.defaults is not None
    assert (remote.defaults.max_tokens, remote.served_model, remote.has_page) == (9, "m", False)
    open_to_all = serve_config(parse(["serve", "--host", "::", "--no-auth"]))
    assert open_to_all.api_keys == ()
    named = serve_config(parse(["serve", "--allowed-host", "GPU-box"]))
    assert named.allowed_hosts == ("localhost", "127.0.0.1", "[::1]", "gpu-box")


def test_a_port_in_use_is_a_plain_error():
    with bind(Listening(port=0)) as first:
        first.listen()
        with pytest.raises(ConfigError, match="choose another"):
            bind(Listening(port=first.getsockname()[1]))


def test_tls_needs_a_certificate_and_a_key_that_can_be_read(engine, tmp_path: Path):
    pem = tmp_path / "x.pem"
    pem.write_text("nothing")
    for path in (pem, tmp_path / "absent.pem"):
        app = make_app(engine, ServeConfig(served_model="m"))
        with pytest.raises(ConfigError, match="cannot be used"):
            Server(app, Listening(tls_cert=path, tls_key=path))
    with pytest.raises(ConfigError, match="both or neither"):
        Listening(tls_cert=Path("cert.pem"))
