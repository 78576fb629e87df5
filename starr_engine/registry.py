"""Names to classes, loaded on first use: models, attention backends, both kinds of policy."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, Generic, TypeVar, cast

from starr_engine.errors import ConfigError

T = TypeVar("T")


def unknown_name(kind: str, name: str, known: list[str]) -> str:
    """The sentence for a name that is not known, with the nearest known one."""
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    return f"unknown {kind} {name!r}{hint} known: {', '.join(known)}"


class Registry(Generic[T]):
    """Lazy table of implementations; listing it imports none of them.

    Args:
        kind: What the entries are, for messages ("remasking policy").
        error: Raised for an unknown name; ``RequestError`` where requests choose the entry.
    """

    def __init__(self, kind: str, error: type[Exception] = ConfigError) -> None:
        self.kind = kind
        self._error = error
        self._targets: dict[str, str | type[T]] = {}

    def add(self, name: str, target: str | type[T]) -> None:
        """Register ``target``, a class or ``"module:Name"``, under ``name``.

        Raises:
            ConfigError: If the name is taken.
        """
        if name in self._targets:
            raise ConfigError(
                f"the {self.kind} {name!r} is registered already; choose another name"
            )
        self._targets[name] = target

    def get(self, name: str) -> type[T]:
        """The class registered under ``name``.

        Raises:
            ConfigError: If the name is unknown; names the closest one. Or this registry's error.
        """
        if name not in self._targets:
            raise self._error(unknown_name(self.kind, name, self.names()))
        target = self._targets[name]
        if isinstance(target, str):
            module, _, attribute = target.partition(":")
            loaded: type[T] = getattr(importlib.import_module(module), attribute)
            self._targets[name] = loaded
            return loaded
        return target

    def create(self, name: str, args: Mapping[str, Any]) -> T:
        """Build the frozen data class registered under ``name`` from its fields by name.

        Raises:
            ConfigError: If the name or an argument is unknown, or the result cannot be hashed,
                which telling equal policies apart takes. Or this registry's error.
        """
        target = self.get(name)
        known = [entry.name for entry in fields(cast(Any, target)) if entry.init]
        for arg in args:
            if arg not in known:
                takes = unknown_name("argument", arg, known) if known else "it takes none"
                raise self._error(f"{self.kind} {name!r} has no argument {arg!r}: {takes}")
        made = target(**args)
        try:
            hash(made)
        except TypeError as error:
            raise self._error(
                f"the class of {self.kind} {name!r} must be a frozen data class of values: {error}"
            ) from error
        return made

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._targets)

    def __contains__(self, name: object) -> bool:
        return name in self._targets

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())
