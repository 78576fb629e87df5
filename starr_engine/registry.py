"""Names to classes, loaded on first use: models, attention backends, both kinds of policy."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

from starr_engine.errors import ConfigError

T = TypeVar("T")


def unknown_name(kind: str, name: str, known: list[str]) -> str:
    """The sentence for a name that is not known, with the nearest known one."""
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    return f"unknown {kind} {name!r}{hint} known: {', '.join(known)}"


class Registry(Generic[T]):
    """Lazy table of implementations; listing it imports none of them.

    Installed packages add entries through the entry-point group ``group``. What was added in this
    process, the built-in entries above all, goes before an entry point of the same name, so that
    installing a package changes the meaning of no name.

    Args:
        kind: What the entries are, for messages ("remasking policy").
        error: Raised for an unknown name; ``RequestError`` where requests choose the entry.
        group: Entry-point group of other packages' entries; None takes none.
        members: What every entry must have, so that a lack shows before it is used.
    """

    def __init__(
        self,
        kind: str,
        error: type[Exception] = ConfigError,
        *,
        group: str | None = None,
        members: tuple[str, ...] = (),
    ) -> None:
        self.kind = kind
        self.group = group
        self._error = error
        self._members = members
        self._targets: dict[str, str | type[T]] = {}
        self._loaded_plugins: dict[str, type[T]] = {}

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
            ConfigError: If the name is unknown; names the closest one. If another package's entry
                cannot be loaded, or two packages give the name; says which. Or this registry's
                error.
        """
        target = self._targets.get(name)
        if target is None:
            return self._plugin(name)
        if isinstance(target, str):
            module, _, attribute = target.partition(":")
            loaded: type[T] = getattr(importlib.import_module(module), attribute)
            self._targets[name] = loaded
            return loaded
        return target

    def _plugin(self, name: str) -> type[T]:
        if name in self._loaded_plugins:
            return self._loaded_plugins[name]
        found = [point for point in self._entry_points() if point.name == name]
        if not found:
            raise self._error(unknown_name(self.kind, name, self.names()))
        origins = " and ".join(sorted(_origin(point) for point in found))
        if len(found) > 1:
            raise self._error(
                f"the {self.kind} {name!r} comes from {origins}; uninstall all but one"
            )
        try:
            self._loaded_plugins[name] = found[0].load()
        except Exception as error:  # whatever another package's import may raise
            raise self._error(
                f"the {self.kind} {name!r} of {origins} cannot be loaded: "
                f"{type(error).__name__}: {error}"
            ) from error
        return self._loaded_plugins[name]

    def _entry_points(self) -> list[EntryPoint]:
        if self.group is None:
            return []
        from importlib.metadata import entry_points  # takes longer than the rest of the package

        return list(entry_points(group=self.group))

    def create(self, name: str, args: Mapping[str, Any]) -> T:
        """Build the frozen data class registered under ``name`` from its fields by name.

        Raises:
            ConfigError: If the name or an argument is unknown, an argument is missing, or the class
                is none that equal policies can be told by. Or this registry's error.
        """
        target = self.get(name)
        if not (isinstance(target, type) and is_dataclass(target)):
            raise self._error(f"{self.kind} {name!r} must be a frozen data class, got {target!r}")
        if lacking := [member for member in self._members if not hasattr(target, member)]:
            raise self._error(f"the class of {self.kind} {name!r} lacks {', '.join(lacking)}")
        taken = [entry for entry in fields(target) if entry.init]
        known = [entry.name for entry in taken]
        for arg in args:
            if arg not in known:
                takes = unknown_name("argument", arg, known) if known else "it takes none"
                raise self._error(f"{self.kind} {name!r} has no argument {arg!r}: {takes}")
        needed = [
            entry.name
            for entry in taken
            if entry.default is MISSING and entry.default_factory is MISSING
        ]
        if missing := [arg for arg in needed if arg not in args]:
            raise self._error(f"{self.kind} {name!r} needs the argument {', '.join(missing)}")
        made = cast(type[T], target)(**args)
        try:
            hash(made)
        except TypeError as error:
            raise self._error(
                f"the class of {self.kind} {name!r} must be a frozen data class of values: {error}"
            ) from error
        return made

    def names(self) -> list[str]:
        """All names, sorted; those of installed packages too, without importing these."""
        return sorted({*self._targets, *(point.name for point in self._entry_points())})

    def __contains__(self, name: object) -> bool:
        return name in self._targets or name in self.names()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())


def _origin(point: EntryPoint) -> str:
    """Who installed it, for messages; an entry point made by hand belongs to no distribution."""
    if point.dist is None:
        return f"the entry point {point.value}"
    return f"the installed package {point.dist.name} {point.dist.version}"
