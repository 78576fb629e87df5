"""What a client is told when something is wrong: OpenAI's error object, never a stack trace."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from typing_extensions import TypedDict

from starr_engine.errors import CapacityError, EngineDeadError, ReplicaDiedError, RequestError
from starr_engine.registry import unknown_name
from starr_engine.unsupported import UNSUPPORTED_FIELDS

NOT_JSON: Final = "the body must be a JSON object, sent with `Content-Type: application/json`"

_MAX_PROBLEMS: Final = 5
_MAX_MESSAGE_CHARS: Final = 1000
"""A message quotes what was sent, and that may be a megabyte."""

_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class ErrorDetail(TypedDict):
    """The inner object of an error."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(TypedDict):
    """The body of every response that is no success, and the last event of a broken stream."""

    error: ErrorDetail


class ApiError(Exception):
    """A response that is no success.

    Args:
        status: Of HTTP.
        message: For the client; cut where it is long.
        param: The field that is to blame.
        code: For programs; stable.
        headers: Of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        if len(message) > _MAX_MESSAGE_CHARS:
            self.message = message[:_MAX_MESSAGE_CHARS] + " ..."
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    @property
    def kind(self) -> str:
        """OpenAI's name of errors of this status."""
        default = "server_error" if self.status >= 500 else "invalid_request_error"
        return _TYPES.get(self.status, default)

    @property
    def label(self) -> str:
        """For logs: the code, or else the kind."""
        return self.code or self.kind

    @property
    def body(self) -> ErrorBody:
        """As OpenAI's clients expect it."""
        return ErrorBody(
            error=ErrorDetail(
                message=self.message, type=self.kind, param=self.param, code=self.code
            )
        )


def server_ends() -> ApiError:
    """The answer to what a server that ends could not finish in time."""
    return ApiError(503, "the server ends before this request could finish", code="shutdown")


class ClientGoneError(Exception):
    """The client has closed its connection: nobody waits for the answer."""


def as_api_error(error: Exception, fields: Collection[str] = ()) -> ApiError:
    """The answer to an exception of the engine.

    Args:
        error: Whatever was raised.
        fields: Names that the request may hold; a message that begins with one blames it.

    Returns:
        The error's own message for errors that users can do something about; for all others a
        sentence that says nothing of the inside.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestError):
        return ApiError(400, str(error), param=_blamed(str(error), fields))
    if isinstance(error, CapacityError):
        return ApiError(503, str(error), code="no_capacity")
    if isinstance(error, ReplicaDiedError):
        return ApiError(503, str(error), code="replica_died", headers={"retry-after": "1"})
    if isinstance(error, EngineDeadError):
        return ApiError(503, "the engine has failed; the server ends", code="engine_dead")
    if isinstance(error, TimeoutError):
        return ApiError(504, "the request took longer than the server allows", code="timeout")
    return ApiError(500, "an internal error; the server's log has more", code="internal")


def field_error(problems: Sequence[Any], known: Sequence[str]) -> ApiError:
    """The answer to a body that does not fit its schema.

    Args:
        problems: As pydantic lists them: mappings with ``type``, ``loc`` and ``msg``.
        known: Fields of the schema.
    """
    texts: list[str] = []
    for problem in problems[:_MAX_PROBLEMS]:
        names = [str(part) for part in problem["loc"][1:]]
        if problem["type"] == "extra_forbidden" and len(names) == 1:
            texts.append(_unknown_field(names[0], known))
        elif problem["type"] == "json_invalid" or not names:
            texts.append(NOT_JSON)
        else:
            texts.append(f"{'.'.join(names)}: {problem['msg']}")
    place = problems[0]["loc"][1:] if problems else ()
    param = place[0] if place and isinstance(place[0], str) else None
    is_unknown = bool(problems) and problems[0]["type"] == "extra_forbidden"
    # A union reports one problem for each of its members: the same field, once is enough.
    message = "; ".join(dict.fromkeys(texts))
    code = "unsupported_field" if is_unknown else None
    return ApiError(400, message, param=param, code=code)


def _unknown_field(name: str, known: Sequence[str]) -> str:
    if reason := UNSUPPORTED_FIELDS.get(name):
        return f"{name} is not supported: {reason}"
    return unknown_name("field", name, sorted(known))


def _blamed(message: str, fields: Collection[str]) -> str | None:
    first = re.match(r"[a-z_]+", message)
    return first[0] if first and first[0] in fields else None
