"""One row as a line of JSON."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping


def json_line(columns: Mapping[str, object]) -> bytes:
    """The line of a row, ended by its only newline.

    What JSON does not know is written as the nearest thing it does: dates and times in ISO 8601,
    bytes in base64, other types as text, NaN and infinities as null.
    """
    try:
        text = json.dumps(columns, ensure_ascii=False, allow_nan=False, default=_plain)
    except (ValueError, TypeError):  # NaN inside, or a key that is no string
        text = json.dumps(_strict(columns), ensure_ascii=False, default=_plain)
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:  # lone surrogates exist in JSON only as escapes
        return json.dumps(json.loads(text)).encode() + b"\n"


def parse_line(line: bytes) -> dict[str, object] | None:
    """The row of a line; None for one that a kill or a power cut left incomplete."""
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    isoformat = getattr(value, "isoformat", None)
    return isoformat() if isoformat else str(value)


def _strict(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(name): _strict(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
