"""Answers to mathematical problems: found in a text, brought to one form, compared."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

_NUMBER: Final = re.compile(r"(?:(?<!\d)-)?\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")
_BOX: Final = re.compile(r"\\(?:boxed|fbox)\s*")
_SAID: Final = re.compile(r"final answer is:?(.+)", re.IGNORECASE)
_MAX_DIGITS: Final = 1000  # Python reads no longer integers than some thousand digits
_DROPPED: Final = re.compile(
    r"\\left(?![a-z])|\\right(?![a-z])|\\[,;:! ]|~|\s|\$|\\\$|\\%|%|\^\{?\\circ\}?|\\displaystyle"
)
_TEXT: Final = re.compile(r"\\(?:text|textbf|textrm|mathrm|mbox)\{([^{}]*)\}")
_UNIT: Final = re.compile(r"(?<=[\d})])\s*\\(?:text|textrm|mathrm|mbox)\{[^{}]*\}(?:\^\{?\d\}?)?$")
_SHORT_FRACTION: Final = re.compile(r"\\frac(?:(\d)(\d)|(\d)\{|\{([^{}]*)\}(\d))")
_SHORT_ROOT: Final = re.compile(r"\\sqrt(\w)")
_SLASH: Final = re.compile(r"(-?)(\d+)/(\d+)")
_FRACTION: Final = re.compile(r"(-?)\\frac\{(-?\d+)\}\{(-?\d+)\}")
_THOUSANDS: Final = re.compile(r"-?\d{1,3}(?:(?:,|\{,\})\d{3})+(?:\.\d+)?")
_NAMED: Final = re.compile(r"^[A-Za-z](?:\([A-Za-z]\))?=")


def last_number(text: str) -> Fraction | None:
    """The last number of a text, with or without dollar sign and commas in it."""
    found = _NUMBER.findall(text)
    if not found or len(found[-1]) > _MAX_DIGITS:
        return None
    return Fraction(found[-1].replace(",", "").replace("$", ""))


def boxed(text: str) -> str | None:
    r"""What the last ``\boxed{...}`` holds, its braces matched; None without one."""
    for match in reversed(list(_BOX.finditer(text))):
        rest = text[match.end() :]
        if not rest.startswith("{"):
            word = re.match(r"[^\s$]+", rest)
            if word:
                return word[0]
            continue
        depth = 0
        for at, sign in enumerate(rest):
            depth += (sign == "{") - (sign == "}")
            if depth == 0:
                return rest[1:at]
    return None


def final_answer(text: str) -> str | None:
    """What is boxed last, or else said to be the final answer."""
    inside = boxed(text)
    if inside is not None:
        return inside
    said = _SAID.findall(text)
    return str(said[-1]).partition(" I hope")[0] if said else None


def canonical(answer: str) -> str:
    r"""One form for the ways in which the same answer is written.

    In this order: a unit after a number goes; spaces, dollar and percent signs, degrees and
    ``\left`` go; ``\text{...}`` is its text; the forms of fractions and roots are one; ``x =``
    in front goes, and so do commas between thousands and a point at the end.
    """
    answer = answer.strip("$ \n").rstrip(". ")
    answer = answer.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    answer = _UNIT.sub("", answer)
    answer = _TEXT.sub(r"\1", answer)
    answer = _NAMED.sub("", _DROPPED.sub("", answer))
    answer = _SHORT_FRACTION.sub(_full_fraction, answer)
    answer = _SHORT_ROOT.sub(r"\\sqrt{\1}", answer)
    if match := _SLASH.fullmatch(answer):
        answer = f"{match[1]}\\frac{{{match[2]}}}{{{match[3]}}}"
    if _THOUSANDS.fullmatch(answer):
        answer = answer.replace("{,}", "").replace(",", "")
    return answer.casefold() if answer.isalpha() else answer


def is_equal(left: str, right: str) -> bool:
    """Whether two answers are the same text in canonical form, or the same number."""
    left, right = canonical(left), canonical(right)
    if left == right:
        return True
    values = _value(left), _value(right)
    return values[0] is not None and values[0] == values[1]


def _full_fraction(match: re.Match[str]) -> str:
    if match[1]:
        return f"\\frac{{{match[1]}}}{{{match[2]}}}"
    if match[3]:
        return f"\\frac{{{match[3]}}}{{"
    return f"\\frac{{{match[4]}}}{{{match[5]}}}"


def _value(answer: str) -> Fraction | None:
    if len(answer) > _MAX_DIGITS:
        return None
    if match := _FRACTION.fullmatch(answer):
        below = int(match[3])
        sign = -1 if match[1] else 1
        return sign * Fraction(int(match[2]), below) if below else None
    if re.fullmatch(r"[-+]?(?:\d+\.?\d*|\.\d+)", answer):
        return Fraction(answer.rstrip("."))
    return None
