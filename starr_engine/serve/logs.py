"""The log: one JSON object a line, without the text of prompts and outputs unless asked for."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, Final, TextIO

from starr_engine.serve.record import RequestRecord

LOGGER: Final = logging.getLogger("starr_engine.serve")

_PROBED: Final = ("/health", "/ready", "/metrics")
"""Asked every few seconds by machines; only a refusal is worth a line."""

_FIELDS: Final = "fields"
"""Attribute of a log record that holds what is more than its message."""


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON; control characters in it are escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, _FIELDS, {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def log(event: str, level: int = logging.INFO, **fields: Any) -> None:
    """Write an event with its fields."""
    LOGGER.log(level, event, extra={_FIELDS: fields})


def log_failure(event: str, error: BaseException, **fields: Any) -> None:
    """Write an event with the stack trace that clients do not get."""
    LOGGER.error(event, exc_info=error, extra={_FIELDS: fields})


def log_request(record: RequestRecord) -> None:
    """Write the line of a request that has ended."""
    fields: dict[str, Any] = {
        "request_id": record.request_id,
        "method": record.method,
        # A path may hold anything, and a client may send much of it.
        "path": record.path[:200],
        "status": record.status,
        "seconds": round(record.elapsed_s, 6),
        "key": record.key_name,
    }
    if record.first_block_s is not None:
        fields["first_block_seconds"] = round(record.first_block_s, 6)
    if record.usage is not None:
        fields |= {
            "prompt_tokens": record.usage["prompt_tokens"],
            "completion_tokens": record.usage["completion_tokens"],
            "denoising_steps": record.usage["denoising_steps"],
            "tokens_per_forward": round(record.usage["tokens_per_forward"], 4),
            "finish_reasons": list(record.finish_reasons),
        }
    if record.error is not None:
        fields["error"] = record.error
    if record.text is not None:
        fields["text"] = record.text
    is_probe = record.route in _PROBED and record.status == 200
    log("request", logging.DEBUG if is_probe else logging.INFO, **fields)


def set_up_logging(level: str, stream: TextIO = sys.stderr) -> None:
    """Send this server's log, and uvicorn's warnings, to a stream; for programs, not libraries.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``.
        stream: Where the lines go.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    for name, least in (("starr_engine.serve", level.upper()), ("uvicorn.error", "WARNING")):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(least)
        logger.propagate = False
