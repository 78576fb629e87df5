"""Who may ask, how much at once, and how long a body may be: before anything is parsed."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from starr_engine.serve.config import ServeConfig
from starr_engine.serve.errors import (
    NOT_JSON,
    ApiError,
    ClientGoneError,
    as_api_error,
    server_ends,
)
from starr_engine.serve.json_text import JsonResponse
from starr_engine.serve.keys import ApiKey, find_key
from starr_engine.serve.logs import log, log_failure, log_request
from starr_engine.serve.metrics import ServerMetrics
from starr_engine.serve.record import RequestRecord, attach_record

GENERATING_PATHS: Final = ("/v1/completions", "/v1/chat/completions")
_OPEN_PATHS: Final = ("/", "/health", "/ready", "/version", "/openapi.json")
_KNOWN_PATHS: Final = (*GENERATING_PATHS, *_OPEN_PATHS, "/v1/models", "/metrics")
_PAGE_PREFIX: Final = "/page/"

_CLIENT_GONE: Final = 499
"""nginx's number for it; nobody receives it."""

_SECURITY_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class Guard:
    """The outermost layer of the app: checks a request, follows it, and answers every error.

    Args:
        app: What it guards.
        config: Keys and limits.
        metrics: Told of every request that ends.
    """

    def __init__(self, app: ASGIApp, config: ServeConfig, metrics: ServerMetrics) -> None:
        self._app = app
        self._config = config
        self._metrics = metrics
        self._num_generating = 0
        self._num_of_key: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; everything that is no HTTP passes through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = RequestRecord(method=scope["method"], path=scope["path"])
        record.route = _route(record.path)
        attach_record(scope, record)

        async def send_noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    *_SECURITY_HEADERS,
                    (b"x-request-id", record.request_id.encode()),
                ]
            await send(message)

        try:
            await self._handle(record, scope, receive, send_noting)
        except ClientGoneError:
            record.status, record.error = _CLIENT_GONE, "client_gone"
        except asyncio.CancelledError:  # by uvicorn, when the time to drain is over
            answer = server_ends()
            record.error = answer.label
            if not record.status:
                await _respond(answer, scope, receive, send_noting)
        except Exception as error:
            answer = as_api_error(error)
            record.error = answer.label
            if answer.code == "internal":
                log_failure("internal error", error, request_id=record.request_id)
            if record.status:  # the response has begun: it ends in the middle, which clients see
                log("response broken off", logging.WARNING, request_id=record.request_id)
                return
            await _respond(answer, scope, receive, send_noting)
        finally:
            self._metrics.count(record)
            log_request(record)

    async def _handle(
        self, record: RequestRecord, scope: Scope, receive: Receive, send: Send
    ) -> None:
        headers = Headers(scope=scope)
        self._check_host(headers)
        key = self._authenticate(headers, record.path)
        record.key_name = None if key is None else key.name
        if record.path not in GENERATING_PATHS or record.method != "POST":
            await self._app(scope, await self._with_body(headers, receive), send)
            return
        # A page of another site may send a body of no type or of a form's unasked, JSON it may not.
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise ApiError(400, NOT_JSON)
        with self._place(key):
            await self._app(scope, await self._with_body(headers, receive), send)

    def _check_host(self, headers: Headers) -> None:
        allowed = self._config.allowed_hosts
        host = headers.get("host", "")
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if allowed is not None and name.lower() not in allowed:
            raise ApiError(
                403,
                f"this server does not answer to the name {name!r}; start it with "
                "--allowed-host if it should",
                code="host_not_allowed",
            )

    def _authenticate(self, headers: Headers, path: str) -> ApiKey | None:
        keys = self._config.api_keys
        if not keys or path in _OPEN_PATHS or path.startswith(_PAGE_PREFIX):
            return None
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        key = find_key(keys, secret.strip()) if scheme.lower() == "bearer" else None
        if key is None:
            raise ApiError(
                401,
                "this server needs an API key: `Authorization: Bearer KEY`, and the key must be "
                "one of its own",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )
        return key

    @contextmanager
    def _place(self, key: ApiKey | None) -> Iterator[None]:
        """One of the places for requests that generate."""
        config = self._config
        retry = {"retry-after": "1"}
        if key is not None and self._num_of_key[key.name] >= config.max_requests_per_key:
            raise ApiError(
                429,
                f"{config.max_requests_per_key} requests of this API key are running, which is "
                "all it may have; wait for one of them",
                code="too_many_requests",
                headers=retry,
            )
        if self._num_generating >= config.max_requests:
            raise ApiError(
                503,
                f"the server is busy with {config.max_requests} requests, which is all it takes; "
                "try again",
                code="overloaded",
                headers=retry,
            )
        self._num_generating += 1
        self._metrics.in_progress.inc()
        if key is not None:
            self._num_of_key[key.name] += 1
        try:
            yield
        finally:
            self._num_generating -= 1
            self._metrics.in_progress.dec()
            if key is not None:
                self._num_of_key[key.name] -= 1

    async def _with_body(self, headers: Headers, receive: Receive) -> Receive:
        """``receive`` for a request whose body has come whole, in time and in bounds."""
        limit = self._config.max_body_bytes
        stated = headers.get("content-length", "0")
        if not stated.isdecimal() or int(stated) > limit:
            raise _too_long(limit)
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._config.body_timeout_s):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGoneError
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > limit:
                        raise _too_long(limit)
                    more = message.get("more_body", False)
        except TimeoutError:
            raise ApiError(
                408,
                f"the body did not come within {self._config.body_timeout_s:g} s",
                code="body_timeout",
                headers={"connection": "close"},
            ) from None
        body: Message | None = {
            "type": "http.request", "body": b"".join(parts), "more_body": False
        }  # fmt: skip

        async def replay() -> Message:
            nonlocal body
            if body is not None:
                message, body = body, None
                return message
            return await receive()

        return replay


async def _respond(answer: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    await JsonResponse(answer.body, answer.status, answer.headers)(scope, receive, send)


def _too_long(limit: int) -> ApiError:
    # Closed, so that the rest of it need not be read.
    return ApiError(
        413,
        f"the body is longer than the {limit} bytes that this server takes",
        code="body_too_long",
        headers={"connection": "close"},
    )


def _route(path: str) -> str:
    if path.startswith(_PAGE_PREFIX):
        return "page"
    return path if path in _KNOWN_PATHS else "other"
