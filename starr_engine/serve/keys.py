"""API keys: read from a file or a variable, kept as digests, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from starr_engine.errors import ConfigError

MIN_KEY_CHARS: Final = 16
"""A shorter key could be guessed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """One key; the text of it is not kept."""

    name: str
    """Of its owner, for logs and limits."""

    digest: bytes = field(repr=False)
    """SHA-256 of the key."""


def parse_keys(text: str, source: str) -> tuple[ApiKey, ...]:
    """Keys from lines of ``NAME KEY``; empty lines and those that begin with ``#`` are skipped.

    Args:
        text: Of a file or an environment variable.
        source: What it is, for messages.

    Raises:
        ConfigError: If a line has another form, a key is short, a name or key comes twice, or
            there is none.
    """
    keys: list[ApiKey] = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2:
            # The line itself is not shown: it holds a secret.
            raise ConfigError(f"{source}, line {number}: expected NAME KEY, got {len(words)} words")
        name, secret = words
        if len(secret) < MIN_KEY_CHARS:
            raise ConfigError(
                f"{source}, line {number}: the key of {name!r} has {len(secret)} characters, and "
                f"at least {MIN_KEY_CHARS} are needed; `openssl rand -hex 32` makes a good one"
            )
        keys.append(ApiKey(name=name, digest=_digest(secret)))
    for what, values in (
        ("name", [key.name for key in keys]),
        ("key", [key.digest for key in keys]),
    ):
        if len(set(values)) < len(values):
            raise ConfigError(f"{source}: a {what} comes twice")
    if not keys:
        raise ConfigError(f"{source} holds no API key; write one NAME KEY a line")
    return tuple(keys)


def read_keys(path: Path | None, variable: str | None) -> tuple[ApiKey, ...]:
    """Keys of a file and of an environment variable, both optional.

    Raises:
        ConfigError: If one is named and cannot be read, others can read the file, or it is
            malformed.
    """
    keys: tuple[ApiKey, ...] = ()
    if path is not None:
        try:
            text, mode = path.read_text(encoding="utf-8"), path.stat().st_mode
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the API keys in {path} cannot be read: {error}") from error
        if mode & 0o007:
            raise ConfigError(f"every user can read or write {path}; run `chmod 640 {path}`")
        keys += parse_keys(text, str(path))
    if variable is not None:
        if variable not in os.environ:
            raise ConfigError(f"the environment has no variable {variable}")
        keys += parse_keys(os.environ[variable], variable)
    if len({key.name for key in keys}) < len(keys):
        raise ConfigError(f"{path} and {variable} have a name in common")
    return keys


def find_key(keys: Sequence[ApiKey], secret: str) -> ApiKey | None:
    """The key with this text.

    Digests of equal length are compared, each in constant time and always all of them, so that
    the time taken says nothing about how much of a guess was right.
    """
    digest = _digest(secret)
    found: ApiKey | None = None
    for key in keys:
        if hmac.compare_digest(key.digest, digest):
            found = key
    return found


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
