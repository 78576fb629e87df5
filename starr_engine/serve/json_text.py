"""Objects to JSON, whatever text is in them."""

from __future__ import annotations

import json
import math
from typing import Any

from starlette.responses import Response


class JsonResponse(Response):
    """A response with one JSON object as its body."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The body."""
        return encode_json(content)


def encode_json(content: Any) -> bytes:
    """UTF-8 without newlines; infinities and NaN, which JSON does not have, become null."""
    try:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:
        text = json.dumps(_finite(content), ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:  # lone surrogates exist in JSON only as escapes
        return json.dumps(json.loads(text), separators=(",", ":")).encode()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
