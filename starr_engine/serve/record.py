"""What is known of one HTTP request, filled in on its way; the log and the metrics read it."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.types import Scope

from starr_engine.serve.responses import Usage

_STATE_KEY: Final = "starr_record"


@dataclass(slots=True)
class RequestRecord:
    """One HTTP request."""

    method: str
    path: str
    route: str = "other"
    """Of those that exist, so that their number is bounded."""

    request_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    started_s: float = field(default_factory=time.perf_counter)
    key_name: str | None = None
    status: int = 0
    """0 until the response begins; 499 if the client has gone."""

    first_block_s: float | None = None
    """Seconds until the first block of a stream was there."""

    usage: Usage | None = None
    finish_reasons: tuple[str, ...] = ()
    choices: tuple[tuple[int, float], ...] = ()
    """NFE and TPF of each choice."""

    error: str | None = None
    """The stable code, or the kind, of what went wrong."""

    text: dict[str, Any] | None = None
    """Prompts and outputs, where they are to be logged."""

    @property
    def elapsed_s(self) -> float:
        """Since the request came."""
        return time.perf_counter() - self.started_s


def attach_record(scope: Scope, record: RequestRecord) -> None:
    """Let whoever handles the request find its record."""
    scope.setdefault("state", {})[_STATE_KEY] = record


def record_of(scope: Scope) -> RequestRecord:
    """The record of a request."""
    record: RequestRecord = scope["state"][_STATE_KEY]
    return record
