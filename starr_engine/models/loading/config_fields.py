"""Reading ``config.json`` strictly: every problem is collected, then reported at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from starr_engine.errors import ConfigError

LARGEST: Final = 2**31 - 1
"""Of any whole number."""

LARGEST_NUMBER: Final = 1e30
"""Of any other number; float32 holds it."""

MOST_LAYERS: Final = 10_000
MOST_EXPERTS: Final = 10_000
"""Of a layer."""

MOST_POSITIONS: Final = 2**22
"""Rows of a table of rotary angles, which is made when the model is."""

_NOTHING: Final = object()


class ConfigFields:
    """Typed access to a checkpoint's configuration that remembers what was wrong.

    A getter that finds a problem returns a harmless value; :meth:`check` then raises. Values come
    from outside, hence ``Any``.

    Args:
        config: Content of ``config.json``.
        architecture: For the message.
    """

    def __init__(self, config: Mapping[str, Any], architecture: str) -> None:
        self._config = config
        self._architecture = architecture
        self._problems: list[str] = []
        self._place = ""

    def of_other_file(self, file_name: str, content: Mapping[str, Any]) -> ConfigFields:
        """Fields of a file beside ``config.json``; its problems are reported with those here."""
        fields = ConfigFields(content, self._architecture)
        fields._problems = self._problems
        fields._place = f"{file_name}: "
        return fields

    def problem(self, text: str) -> None:
        """Note a problem that the caller found."""
        self._problems.append(self._place + text)

    def has(self, name: str) -> bool:
        """Whether ``name`` is there and not null."""
        return self._config.get(name) is not None

    def optional(self, name: str, default: Any) -> Any:
        """The value of ``name``; ``default`` if it is absent or null."""
        value = self._config.get(name)
        return default if value is None else value

    def positive_int(self, name: str, default: int | None = None, *, at_most: int = LARGEST) -> int:
        """A whole number above 0; required unless ``default`` is given.

        Args:
            name: The field.
            default: Taken if it is absent or null.
            at_most: What no model in earnest goes beyond, so that a hostile file costs no memory.
        """
        value = self._value(name, default)
        if _is_int(value) and 0 < value <= at_most:
            return int(value)
        is_large = _is_int(value) and value > at_most
        self._wrong(name, value, f"at most {at_most}" if is_large else "a whole number above 0")
        return 1

    def count(self, name: str, default: int | None = None) -> int:
        """A whole number, 0 or above; required unless ``default`` is given."""
        value = self._value(name, default)
        if _is_int(value) and 0 <= value <= LARGEST:
            return int(value)
        self._wrong(name, value, "a whole number, 0 or above")
        return 0

    def positive_number(self, name: str, default: float | None = None) -> float:
        """A number above 0; required unless ``default`` is given."""
        value = self._value(name, default)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and 0 < value < LARGEST_NUMBER:
            return float(value)
        self._wrong(name, value, "a number above 0")
        return 1.0

    def flag(self, name: str, *, default: bool) -> bool:
        """A boolean; ``default`` if absent or null."""
        value = self._value(name, default)
        if isinstance(value, bool):
            return value
        self._wrong(name, value, "true or false")
        return default

    def whole_numbers(self, name: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """A list of whole numbers, 0 or above; required unless ``default`` is given."""
        value = self._value(name, default)
        if isinstance(value, list | tuple) and all(_is_int(item) and item >= 0 for item in value):
            return tuple(value)
        self._wrong(name, value, "a list of whole numbers, 0 or above")
        return ()

    def token_id(self, name: str) -> int:
        """A token id; required, because guessing one changes what the model sees."""
        value = self._value(name, None)
        if _is_int(value) and value >= 0:
            return int(value)
        self._wrong(name, value, "a token id, 0 or above")
        return 0

    def token_ids(self, name: str) -> tuple[int, ...]:
        """One token id or a list of them; required."""
        value = self._value(name, None)
        listed = value if isinstance(value, list) else [value]
        if listed and all(_is_int(token) and token >= 0 for token in listed):
            return tuple(dict.fromkeys(listed))
        self._wrong(name, value, "a token id, 0 or above, or a list of them")
        return ()

    def check_rows(self, name: str, token_ids: Iterable[int], num_rows: int) -> None:
        """Note a problem for every token of ``name`` that has no row in the embedding."""
        for token in token_ids:
            if token >= num_rows:
                self.problem(
                    f"{name} must be below the {num_rows} rows of the embedding, got {token}"
                )

    def require(self, name: str, supported: object, *, default: object) -> None:
        """Note a problem unless ``name``, or ``default`` if absent, is ``supported``.

        Args:
            name: The field.
            supported: The one value that is computed correctly.
            default: What the published code takes if the field is absent.
        """
        value = self._config.get(name, default)
        if value != supported or isinstance(value, bool) != isinstance(supported, bool):
            absent = "" if name in self._config else " (absent, which means this value)"
            self.problem(f"{name} must be {supported!r}, got {value!r}{absent}")

    def check(self) -> None:
        """Raise if any getter found a problem.

        Raises:
            ConfigError: Names every field, its value and what is supported.
        """
        if self._problems:
            raise ConfigError(
                f"config.json of this {self._architecture} checkpoint is not supported: "
                + "; ".join(self._problems)
            )

    def _value(self, name: str, default: object) -> Any:
        value = self._config.get(name)
        if value is not None:
            return value
        return _NOTHING if default is None else default

    def _wrong(self, name: str, value: object, wanted: str) -> None:
        if value is _NOTHING:
            self.problem(f"{name} is missing; it must be {wanted}")
        else:
            self.problem(f"{name} must be {wanted}, got {value!r}")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
