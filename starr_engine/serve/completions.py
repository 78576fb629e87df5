"""The two endpoints that generate: from a checked body to a response."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from starr_engine.errors import EngineDeadError, RequestError
from starr_engine.outputs import BlockOutput, FinishReason, ProvisionalOutput, RequestOutput
from starr_engine.serve.config import ServeConfig
from starr_engine.serve.disconnect import unless_gone
from starr_engine.serve.errors import ApiError, as_api_error
from starr_engine.serve.event_stream import DONE, EventStream, Patient, event
from starr_engine.serve.generation import generate, stream
from starr_engine.serve.inputs import Work, chat_work, check_work, completion_work
from starr_engine.serve.json_text import JsonResponse
from starr_engine.serve.logs import log_failure
from starr_engine.serve.protocol import ServedEngine
from starr_engine.serve.record import RequestRecord, record_of
from starr_engine.serve.responses import Shape, Usage, usage_of
from starr_engine.serve.schemas import ChatBody, CompletionBody

_SPELLED_TOKENS: Final = 1 << 16
"""Texts of single tokens that are remembered."""


class Completions:
    """Answers completions and chats.

    Args:
        engine: Of one model.
        config: Names, defaults and limits.
        engine_died: Set when the engine has failed as a whole.
    """

    def __init__(
        self, engine: ServedEngine, config: ServeConfig, engine_died: asyncio.Event
    ) -> None:
        self._engine = engine
        self._config = config
        self._engine_died = engine_died
        self._defaults = config.defaults or engine.default_sampling_params()
        self._token_text = functools.lru_cache(_SPELLED_TOKENS)(
            lambda token: engine.tokenizer.token_text(token)
        )

    async def answer(self, request: Request, body: CompletionBody | ChatBody) -> Response:
        """The response to one request.

        Raises:
            ApiError: If it cannot run, or fails; says why.
            ClientGoneError: If the client has closed its connection.
        """
        record = record_of(request.scope)
        fields = type(body).model_fields
        try:
            return await self._answer(request, body, record)
        except (RequestError, EngineDeadError) as error:
            raise self._seen(error, fields) from error

    async def _answer(
        self, request: Request, body: CompletionBody | ChatBody, record: RequestRecord
    ) -> Response:
        work = self._work(body, record)
        is_chat = isinstance(body, ChatBody)
        shape = Shape(
            f"{'chatcmpl' if is_chat else 'cmpl'}-{record.request_id}",
            self._config.served_model,
            int(time.time()),
            is_chat=is_chat,
            token_text=self._token_text,
        )
        if body.stream:
            options = body.stream_options
            has_usage = options is not None and options.include_usage
            return await self._stream(request, work, shape, record, has_usage=has_usage)
        async with asyncio.timeout(self._config.request_timeout_s):
            outputs = await unless_gone(
                request.receive, generate(self._engine, work, record.request_id)
            )
        for output in outputs:
            if output.finish_reason is FinishReason.ERROR:
                raise _failed(output)
        usage = self._note_end(record, work, outputs)
        return JsonResponse(shape.completion(outputs, usage))

    def _work(self, body: CompletionBody | ChatBody, record: RequestRecord) -> Work:
        served = self._config.served_model
        if body.model not in (None, served):
            raise ApiError(
                404,
                f"the model {body.model!r} is not served here; {served!r} is",
                param="model",
                code="model_not_found",
            )
        # What one key has put into the caches must not show in the timing of another's requests.
        salt = record.key_name or ""
        if isinstance(body, ChatBody):
            work = chat_work(body, self._defaults, salt=salt)
        else:
            limit = self._engine.config.max_model_len or self._engine.spec.max_model_len
            work = completion_work(body, self._defaults, salt=salt, max_model_len=limit)
        check_work(work, body, self._config.max_choices)
        if self._config.log_text:
            record.text = {"prompts": list(work.prompts or work.messages)}
        return work

    async def _stream(
        self, request: Request, work: Work, shape: Shape, record: RequestRecord, *, has_usage: bool
    ) -> Response:
        source = Patient(
            self._events(work, shape, record, has_usage=has_usage), self._config.ping_s
        )
        deadline = asyncio.get_running_loop().time() + self._config.request_timeout_s
        try:
            # What cannot run is refused before the headers say that all is well.
            async with asyncio.timeout_at(deadline):
                first = await unless_gone(request.receive, source.next())
        except BaseException:
            await source.close()
            raise

        def on_error(error: Exception) -> bytes:
            answer = self._seen(error, ())
            record.error = answer.label
            if answer.code == "internal":
                log_failure("internal error", error, request_id=record.request_id)
            return event(answer.body)

        return EventStream(first, source, deadline=deadline, on_error=on_error)

    async def _events(
        self, work: Work, shape: Shape, record: RequestRecord, *, has_usage: bool
    ) -> AsyncGenerator[bytes, None]:
        outputs: dict[int, RequestOutput] = {}
        opened: set[int] = set()

        def chunk(index: int, content: Any) -> bytes:
            """With who speaks in front of the first one of a chat's choice."""
            head = b""
            if work.messages and index not in opened:
                opened.add(index)
                head = event(shape.opening(index) | nothing)
            return head + event(content | nothing)

        nothing: dict[str, None] = {"usage": None} if has_usage else {}
        async with aclosing(stream(self._engine, work, record.request_id)) as events:
            async for index, each in events:
                if isinstance(each, ProvisionalOutput):
                    yield event(shape.provisional(index, each), "provisional")
                elif isinstance(each, BlockOutput):
                    if record.first_block_s is None:
                        record.first_block_s = record.elapsed_s
                    yield chunk(index, shape.block(index, each))
                else:
                    if each.finish_reason is FinishReason.ERROR:
                        raise _failed(each)
                    outputs[index] = each
                    yield chunk(index, shape.ending(index, each))
        usage = self._note_end(record, work, [outputs[index] for index in sorted(outputs)])
        if has_usage:
            yield event(shape.usage(usage))
        yield DONE

    def _note_end(
        self, record: RequestRecord, work: Work, outputs: Sequence[RequestOutput]
    ) -> Usage:
        record.usage = usage_of(outputs, work.params.n)
        record.finish_reasons = tuple(str(output.finish_reason) for output in outputs)
        record.choices = tuple((output.nfe, output.tpf) for output in outputs)
        if record.text is not None:
            record.text["outputs"] = [output.text for output in outputs]
        return record.usage

    def _seen(self, error: Exception, fields: Any) -> ApiError:
        if isinstance(error, EngineDeadError):
            self._engine_died.set()
        return as_api_error(error, fields)


def _failed(output: RequestOutput) -> ApiError:
    return ApiError(500, f"the request failed while it ran: {output.error}", code="request_failed")
