"""Range checks shared by the policies' arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from starr_engine.errors import RequestError
from starr_engine.params import is_finite

MAX_COUNT: Final = 2**31 - 1
"""Largest count that every tensor of integers holds."""


def check_unit_interval(policy: object, *names: str, upper: float = 1.0) -> None:
    """Refuse fields that are no number in [0, upper].

    Raises:
        RequestError: Names every such field.
    """
    _check(
        policy,
        names,
        f"a number in [0, {upper:g}]",
        lambda value: is_finite(value) and 0 <= value <= upper,
    )


def check_not_negative(policy: object, *names: str) -> None:
    """Refuse fields that are no finite number >= 0.

    Raises:
        RequestError: Names every such field.
    """
    _check(policy, names, "a finite number >= 0", lambda value: is_finite(value) and value >= 0)


def check_count(policy: object, *names: str, least: int = 1, most: int = MAX_COUNT) -> None:
    """Refuse fields that are no integer in [``least``, ``most``].

    Raises:
        RequestError: Names every such field.
    """
    _check(
        policy,
        names,
        f"an integer >= {least}" if most == MAX_COUNT else f"an integer from {least} to {most}",
        lambda value: (
            isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
        ),
    )


def check_switch(policy: object, *names: str) -> None:
    """Refuse fields that are neither True nor False.

    Raises:
        RequestError: Names every such field.
    """
    _check(policy, names, "True or False", lambda value: isinstance(value, bool))


def check_choice(policy: object, name: str, choices: Iterable[str]) -> None:
    """Refuse a field that is none of ``choices``.

    Raises:
        RequestError: Names the field and the choices.
    """
    known = list(choices)
    _check(policy, (name,), f"one of {', '.join(known)}", lambda value: value in known)


def _check(
    policy: object, names: tuple[str, ...], wanted: str, accepts: Callable[[Any], bool]
) -> None:
    problems = [
        f"{name} must be {wanted}, got {value!r}"
        for name in names
        if not accepts(value := getattr(policy, name))
    ]
    if problems:
        raise RequestError("; ".join(problems))
