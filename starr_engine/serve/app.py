"""The app: its routes, and what stands around them."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from importlib import resources
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

import starr_engine
from starr_engine.cache.base import CACHE_POLICIES
from starr_engine.decoding.base import REMASKING_POLICIES
from starr_engine.engine.stats import EngineStats
from starr_engine.errors import EngineDeadError, RequestError
from starr_engine.serve.completions import Completions
from starr_engine.serve.config import ServeConfig
from starr_engine.serve.errors import ApiError, ErrorBody, field_error
from starr_engine.serve.guard import Guard
from starr_engine.serve.json_text import JsonResponse
from starr_engine.serve.metrics import CONTENT_TYPE, ServerMetrics
from starr_engine.serve.protocol import Fleet, FleetState, ServedEngine
from starr_engine.serve.record import record_of
from starr_engine.serve.responses import Completion
from starr_engine.serve.schemas import ChatBody, CompletionBody

_PAGE_FILES: Final = {
    "page.css": "text/css; charset=utf-8",
    "canvas.js": "text/javascript; charset=utf-8",
    "events.js": "text/javascript; charset=utf-8",
    "main.js": "text/javascript; charset=utf-8",
}
_PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_LIFE_PATIENCE_S: Final = 0.5
"""A dead engine says so at once."""

_STREAM: Final = {"text/event-stream": {"schema": {"type": "string"}}}
_GENERATED: Final[dict[int | str, dict[str, Any]]] = {
    200: {"model": Completion, "content": _STREAM},
    **{status: {"model": ErrorBody} for status in (400, 401, 404, 413, 429, 503, 504)},
}


def make_app(engine: ServedEngine, config: ServeConfig, fleet: Fleet | None = None) -> FastAPI:
    """The server as an ASGI app.

    ``app.state.engine_died`` is an ``asyncio.Event`` that is set when a request finds the engine
    dead; ``app.state.is_draining`` makes ``/ready`` say no.

    Args:
        engine: Lives longer than the app.
        config: Names, keys and limits.
        fleet: The engine once more, if it stands for several: ``/ready`` and ``/metrics`` then tell
            of each.
    """
    # Its own pages of documentation would load scripts from elsewhere.
    app = FastAPI(
        title="starr_engine",
        version=starr_engine.__version__,
        docs_url=None,
        redoc_url=None,
        # The handlers below give 400, not 422.
        responses={400: {"model": ErrorBody}},
    )
    metrics = ServerMetrics()
    app.state.engine_died = asyncio.Event()
    app.state.is_draining = False
    completions = Completions(engine, config, app.state.engine_died)
    created = int(time.time())

    @app.post("/v1/completions", responses=_GENERATED)
    async def complete(request: Request, body: CompletionBody) -> Response:
        """Complete a text, fill the gap in front of a suffix, or fill a template."""
        return await completions.answer(request, body)

    @app.post("/v1/chat/completions", responses=_GENERATED)
    async def chat(request: Request, body: ChatBody) -> Response:
        """Answer a conversation through the checkpoint's chat template."""
        return await completions.answer(request, body)

    @app.get("/v1/models")
    async def models() -> Response:
        """The model, and the policies that a request may name."""
        return JsonResponse(
            {"object": "list", "data": [_model_card(engine, config.served_model, created)]}
        )

    @app.get("/v1/models/{name:path}", responses={404: {"model": ErrorBody}})
    async def model(name: str) -> Response:
        """The model, if it has this name."""
        if name != config.served_model:
            raise ApiError(404, f"the model {name!r} is not served here", code="model_not_found")
        return JsonResponse(_model_card(engine, name, created))

    @app.get("/health", responses={503: {"model": ErrorBody}})
    async def health() -> Response:
        """Whether the engine lives; 503 is reason to start the server anew."""
        await _check_life()
        return JsonResponse({"status": "ok"})

    @app.get("/ready", responses={503: {"model": ErrorBody}})
    async def ready() -> Response:
        """Whether requests should be sent here; 503 also while the server ends."""
        if app.state.is_draining:
            raise ApiError(
                503, "the server finishes what it has and takes no more", code="draining"
            )
        replicas = await _check_life()
        if replicas is not None and not replicas.is_ready:
            raise ApiError(503, "no replica is ready yet; one is being started", code="starting")
        return JsonResponse({"status": "ok"})

    @app.get("/version")
    async def version() -> Response:
        """The release."""
        return JsonResponse({"version": starr_engine.__version__})

    @app.get("/metrics")
    async def metrics_text() -> Response:
        """Prometheus's text format."""
        return Response(metrics.render(*await state()), media_type=CONTENT_TYPE)

    async def _check_life() -> FleetState | None:
        with suppress(TimeoutError):  # it answers between two steps, and is in a long one
            async with asyncio.timeout(_LIFE_PATIENCE_S):
                return (await state())[1]
        return None

    async def state() -> tuple[dict[str, EngineStats], FleetState | None]:
        """Of each engine by its name, and of all together."""
        try:
            if fleet is None:
                return {"": await engine.stats()}, None
            now = await fleet.fleet()
        except EngineDeadError:
            app.state.engine_died.set()
            raise
        return {each.name: each.stats for each in now.replicas}, now

    if config.has_page:
        _add_page(app)
    app.add_exception_handler(RequestValidationError, _refuse_body)
    app.add_exception_handler(HTTPException, _refuse)
    app.add_middleware(Guard, config=config, metrics=metrics)
    return app


def _model_card(engine: ServedEngine, name: str, created: int) -> dict[str, Any]:
    spec = engine.spec
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "starr_engine",
        "max_model_len": engine.config.max_model_len or spec.max_model_len,
        "attention": spec.attention_kind,
        "block_length": spec.block_length,
        "remasking": REMASKING_POLICIES.names(),
        "cache": [
            "auto",
            *(name for name in CACHE_POLICIES.names() if _serves(name, spec.mask_block)),
        ],
    }


def _serves(cache: str, mask_block: int | None) -> bool:
    try:
        return not CACHE_POLICIES.create(cache, {}).refusal(mask_block)
    except RequestError:  # it needs arguments: whether it fits is for the request to find out
        return True


def _add_page(app: FastAPI) -> None:
    folder = resources.files("starr_engine.serve") / "page"
    start = (folder / "index.html").read_bytes()
    files = {name: (folder / name).read_bytes() for name in _PAGE_FILES}

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return Response(
            start,
            media_type="text/html; charset=utf-8",
            headers={"content-security-policy": _PAGE_POLICY, "cache-control": "no-cache"},
        )

    @app.get("/page/{name}", include_in_schema=False)
    async def page_file(name: str) -> Response:
        if name not in files:
            raise ApiError(404, f"the page has no file {name!r}")
        return Response(
            files[name], media_type=_PAGE_FILES[name], headers={"cache-control": "no-cache"}
        )


async def _refuse_body(request: Request, error: Exception) -> Response:
    """A body that is no JSON, or does not fit its schema."""
    assert isinstance(error, RequestValidationError)
    schema = ChatBody if "chat" in request.url.path else CompletionBody
    return _answer(request, field_error(error.errors(), list(schema.model_fields)))


async def _refuse(request: Request, error: Exception) -> Response:
    """An address or method that does not exist."""
    assert isinstance(error, HTTPException)
    return _answer(request, ApiError(error.status_code, str(error.detail), headers=error.headers))


def _answer(request: Request, error: ApiError) -> Response:
    record_of(request.scope).error = error.label
    return JsonResponse(error.body, error.status, error.headers)
