"""Amounts of memory as users write them: bytes, sizes with a unit, fractions of what is free."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

from starr_engine.errors import ConfigError

MemorySize = int | float | str
"""Bytes; a fraction of the free memory; or a text that says either."""

_UNITS: Final = {"B": 1} | {
    f"{letter}{mark}": base**power
    for power, letter in enumerate("KMGT", start=1)
    for mark, base in (("B", 1000), ("iB", 1024))
}
_BY_UPPER: Final = {name.upper(): size for name, size in _UNITS.items()}
_TEXT: Final = re.compile(r"\s*(?P<number>\d+(?P<point>\.\d+)?)\s*(?P<unit>%|[A-Za-z]*)\s*", re.A)

ALLOWED: Final = (
    "bytes as an integer, a fraction of the free memory above 0 and at most 1 such as 0.5 or "
    f"'50%', or a size such as '512MiB' or '1.5GB' (units: {', '.join(_UNITS)})"
)


def parse_memory_size(name: str, value: object) -> int | float:
    """Bytes as an ``int``, or a fraction of the free memory, in (0, 1], as a ``float``.

    ``GB`` is 1000 and ``GiB`` 1024 to the third; case does not matter. A text without a unit is
    bytes, or a fraction if it has a decimal point.

    Args:
        name: Of the setting, for the message.
        value: ``5000``, ``0.5``, ``"50%"``, ``"512MiB"`` ...

    Raises:
        ConfigError: If it is none of these, or nothing.
    """
    parsed = _parse_text(value) if isinstance(value, str) else value
    is_bytes = isinstance(parsed, int) and not isinstance(parsed, bool) and parsed >= 1
    if is_bytes or (isinstance(parsed, float) and 0 < parsed <= 1):
        assert isinstance(parsed, int | float)
        return parsed
    raise ConfigError(f"{name} must be {ALLOWED}, got {value!r}")


def _parse_text(text: str) -> int | float | None:
    match = _TEXT.fullmatch(text)
    if match is None:
        return None
    number, unit = Fraction(match["number"]), match["unit"].upper()
    if unit == "%":
        return float(number / 100)
    if not unit and match["point"]:
        return float(number)
    size = _BY_UPPER.get(unit or "B")
    return None if size is None else int(number * size)
