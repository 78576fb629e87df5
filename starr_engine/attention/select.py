"""Which attention backend serves a model."""

from __future__ import annotations

from typing import Final

from starr_engine.attention.base import ATTENTION_BACKENDS, AttentionBackend, AttentionShape
from starr_engine.errors import ConfigError

_AUTO_ORDER: Final = ("sdpa", "reference")
"""Fastest first."""


def make_backend(name: str, shape: AttentionShape) -> AttentionBackend:
    """The backend called ``name``; ``auto`` is the fastest that supports ``shape``.

    Raises:
        ConfigError: If the name is unknown or the backend cannot serve the model; gives every
            reason.
    """
    if name != "auto":
        backend = ATTENTION_BACKENDS.get(name)
        if reasons := backend.unsupported(shape):
            raise ConfigError(
                f"attention_backend {name!r} cannot serve this model: {'; '.join(reasons)}; "
                "use attention_backend='auto'"
            )
        return backend(shape)
    for candidate in _AUTO_ORDER:
        backend = ATTENTION_BACKENDS.get(candidate)
        if not backend.unsupported(shape):
            return backend(shape)
    raise AssertionError("the reference backend supports every shape")
