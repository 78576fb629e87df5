"""Which attention backend serves a model."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Final

from starr_engine.attention.base import ATTENTION_BACKENDS, AttentionBackend, AttentionShape
from starr_engine.attention.trial import trial_problem
from starr_engine.errors import ConfigError

AUTO_ORDER: Final = ("flashinfer", "torch_varlen", "flash_attn", "xformers", "sdpa", "reference")
"""FlashInfer reads pages of any size in place; torch's kernel and flash-attn's are one, xFormers
adds work on the host; all of them take a step in one call, which sdpa does not."""

_OWN: Final = ("sdpa", "reference")
"""Held to each other by the tests wherever they run; the others have to pass a trial."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What there is to say of one backend and one model."""

    name: str
    reasons: tuple[str, ...]
    """Why it cannot serve the model; empty if it can."""

    remarks: tuple[str, ...]
    """What it could do better; empty if it cannot serve."""


def survey(shape: AttentionShape) -> list[Candidate]:
    """All backends, those that ``auto`` tries in its order, and the others behind them."""
    others = [name for name in ATTENTION_BACKENDS.names() if name not in AUTO_ORDER]
    candidates = []
    for name in (*AUTO_ORDER, *others):
        backend = ATTENTION_BACKENDS.get(name)
        reasons = backend.unsupported(shape)
        remarks = [] if reasons else backend.remarks(shape)
        candidates.append(Candidate(name=name, reasons=tuple(reasons), remarks=tuple(remarks)))
    return candidates


def make_backend(name: str, shape: AttentionShape) -> AttentionBackend:
    """The backend called ``name``; ``auto`` is the first of its order that serves ``shape``.

    One that ``auto`` passes over although it says that it serves is named in a warning.

    Raises:
        ConfigError: If the name is unknown or the backend cannot serve the model; gives every
            reason.
    """
    if name != "auto":
        backend = ATTENTION_BACKENDS.get(name)
        reasons = backend.unsupported(shape) or _trial_reasons(name, shape)
        if reasons:
            raise ConfigError(
                f"attention_backend {name!r} cannot serve this model: {'; '.join(reasons)}; "
                "use attention_backend='auto'"
            )
        return backend(shape)
    for candidate in AUTO_ORDER:
        backend = ATTENTION_BACKENDS.get(candidate)
        if backend.unsupported(shape):
            continue
        if problems := _trial_reasons(candidate, shape):
            warnings.warn(
                f"attention backend {candidate!r} is passed over: {problems[0]}", stacklevel=2
            )
            continue
        return backend(shape)
    raise AssertionError("the reference backend supports every shape")


def _trial_reasons(name: str, shape: AttentionShape) -> list[str]:
    problem = None if name in _OWN else trial_problem(ATTENTION_BACKENDS.get(name), shape)
    return [] if problem is None else [problem]
