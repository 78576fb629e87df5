"""Range checks shared by the policies' arguments."""

from __future__ import annotations

from collections.abc import Callable

from starr_engine.errors import RequestError


def check_unit_interval(policy: object, *names: str, upper: float = 1.0) -> None:
    """Refuse fields that are no number in [0, upper].

    Raises:
        RequestError: Names every such field.
    """
    _check(policy, names, f"a number in [0, {upper:g}]", lambda value: 0.0 <= value <= upper)


def check_not_negative(policy: object, *names: str) -> None:
    """Refuse fields that are no finite number >= 0.

    Raises:
        RequestError: Names every such field.
    """
    _check(policy, names, "a finite number >= 0", lambda value: 0.0 <= value < float("inf"))


def check_count(policy: object, *names: str, least: int = 1) -> None:
    """Refuse fields that are no integer >= ``least``.

    Raises:
        RequestError: Names every such field.
    """
    _check(
        policy,
        names,
        f"an integer >= {least}",
        lambda value: isinstance(value, int) and value >= least,
    )


def _check(
    policy: object, names: tuple[str, ...], wanted: str, accepts: Callable[[float], bool]
) -> None:
    problems = [
        f"{name} must be {wanted}, got {value!r}"
        for name in names
        if isinstance(value := getattr(policy, name), bool)
        or not isinstance(value, int | float)
        or not accepts(value)
    ]
    if problems:
        raise RequestError("; ".join(problems))
