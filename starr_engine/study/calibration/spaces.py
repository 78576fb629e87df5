"""Where calibration looks: the arguments of each policy and their ranges."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from starr_engine.errors import ConfigError
from starr_engine.params import ArgValue, is_finite

OFF_SHARE: Final = 1 / 6
"""Share of the draws that a range with ``can_be_off`` gives to its low end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Numbers from ``low`` to ``high``."""

    low: float
    high: float

    is_integer: bool = False

    is_log: bool = False
    """Drawn evenly in its logarithm."""

    can_be_off: bool = False
    """The low end switches a term off, and is drawn more often than a point would be."""

    def at(self, place: float) -> ArgValue:
        """The value at ``place`` in [0, 1); three significant digits, finer is not measurable."""
        if self.can_be_off:
            place = max(0.0, (place - OFF_SHARE) / (1 - OFF_SHARE))
        if self.is_integer:
            return int(self.low) + int(place * (self.high - self.low + 1))
        if self.is_log:
            value = math.exp(math.log(self.low) * (1 - place) + math.log(self.high) * place)
        else:
            value = self.low + place * (self.high - self.low)
        return min(self.high, max(self.low, float(f"{value:.3g}")))

    def place(self, value: ArgValue) -> float:
        """A place whose value is ``value``; the nearest where that is outside the range.

        What is no number, such as None for a term that is off, has the place of the low end.
        """
        if value is None or isinstance(value, str):
            return 0.0
        value = min(self.high, max(self.low, value))
        if self.is_integer:
            place = (value - self.low + 0.5) / (self.high - self.low + 1)
        elif self.is_log:
            place = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            place = (value - self.low) / (self.high - self.low)
        if not self.can_be_off:
            return place
        return OFF_SHARE + place * (1 - OFF_SHARE) if value > self.low else OFF_SHARE / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """Values without an order that means anything, or with gaps."""

    values: tuple[ArgValue, ...]

    def at(self, place: float) -> ArgValue:
        """The value at ``place`` in [0, 1)."""
        return self.values[int(place * len(self.values))]

    def place(self, value: ArgValue) -> float:
        """The middle of a value's share; that of the first for a value that is no choice."""
        at = self.values.index(value) if value in self.values else 0
        return (at + 0.5) / len(self.values)


Dimension = Range | Choices
SearchSpace = Mapping[str, Dimension]

SPACES: Final[Mapping[str, SearchSpace]] = MappingProxyType(
    {
        "threshold": {"threshold": Range(low=0.4, high=1.0)},
        "factor": {"factor": Range(low=0.1, high=4.0, is_log=True)},
        "frechet": {"delta": Range(low=0.02, high=1.0, is_log=True)},
        "eb_sampler": {"gamma": Range(low=0.001, high=2.0, is_log=True)},
        "local_leap": {
            "threshold": Range(low=0.6, high=1.0),
            "relaxed": Range(low=0.3, high=0.95),
            "radius": Range(low=1, high=8, is_integer=True),
        },
        "progress_threshold": {
            "threshold": Range(low=0.5, high=1.0),
            "slope": Range(low=0.0, high=0.5, can_be_off=True),
        },
        "age_threshold": {
            "threshold": Range(low=0.5, high=1.0),
            "end": Range(low=0.2, high=0.9),
            "num_steps": Range(low=4, high=32, is_integer=True),
        },
        "hierarchy": {"threshold": Range(low=0.5, high=1.0), "low": Range(low=0.2, high=0.9)},
        "klass": {
            "tau": Range(low=0.3, high=0.99),
            "epsilon": Range(low=0.001, high=0.2, is_log=True),
            "history": Range(low=1, high=4, is_integer=True),
        },
        "stdec": {
            "tau": Range(low=0.5, high=1.0),
            "spatial": Range(low=0.0, high=0.5, can_be_off=True),
            "sigma": Range(low=0.5, high=8.0, is_log=True),
            "temporal": Range(low=0.0, high=0.5, can_be_off=True),
            "patience": Range(low=1, high=6, is_integer=True),
        },
        "credit": {
            "threshold": Range(low=0.5, high=1.0),
            "alpha": Range(low=0.1, high=1.5),
            "gamma": Range(low=0.05, high=1.0),
            "decay": Range(low=0.3, high=0.95),
        },
        "wino": {
            "tau1": Range(low=0.4, high=0.99),
            "tau2": Range(low=0.0, high=0.99, can_be_off=True),
        },
        "starr": {
            "temporal_window": Range(low=1, high=6, is_integer=True),
            "neighbour_window": Range(low=0, high=8, is_integer=True),
            "quantile": Range(low=0.0, high=1.0),
            "tau_min": Range(low=0.4, high=0.95),
            "tau_max": Range(low=0.6, high=1.0),
            "sigma": Range(low=0.005, high=0.5, is_log=True),
            "alpha": Range(low=0.0, high=0.5, can_be_off=True),
            "beta": Range(low=0.0, high=0.5, can_be_off=True),
            "support": Range(low=0.2, high=0.95),
            "gamma": Range(low=0.0, high=2.0, can_be_off=True),
            "c_slow": Range(low=0.1, high=0.9),
            "c_fast": Range(low=0.7, high=1.0),
            "patience": Choices(values=(None, 2, 3, 4, 6, 8)),
        },
    }
)
"""Policy name to its search space. An argument that is not in it keeps its default."""


def space_of(
    policy: str, given: Sequence[str], fixed: Mapping[str, ArgValue], known: Sequence[str]
) -> SearchSpace:
    """The space to search: the policy's own, with what the user gave, without what is fixed.

    Args:
        policy: The remasking policy's name.
        given: ``NAME=LOW:HIGH``, ``NAME=LOW:HIGH:log`` or ``NAME=VALUE,VALUE,...``; any of them
            replaces the policy's entry, and for a policy without one they are all there is.
        fixed: Arguments that keep one value.
        known: Names of all arguments of the policy.

    Raises:
        ConfigError: If a range cannot be read, an argument is unknown, or nothing is left.
    """
    space: dict[str, Dimension] = {**SPACES.get(policy, {})}
    for entry in given:
        name, equals, text = entry.partition("=")
        if not name or not equals:
            raise ConfigError(f"--space takes NAME=LOW:HIGH or NAME=VALUE,VALUE, got {entry!r}")
        if name not in known:
            takes = ", ".join(known) or "none"
            raise ConfigError(f"--space {name}: {policy!r} has no such argument; it has {takes}")
        space[name] = parse_dimension(name, text)
    space = {name: dimension for name, dimension in space.items() if name not in fixed}
    if not space:
        why = "all of its arguments are fixed" if SPACES.get(policy) else "it has no search space"
        raise ConfigError(
            f"there is nothing to calibrate in {policy!r}: {why}; give --space NAME=LOW:HIGH"
        )
    return space


def parse_dimension(name: str, text: str) -> Dimension:
    """``0.5:1``, ``1:8``, ``0.01:1:log`` or ``2,3,null``; two whole numbers are a range of them.

    Raises:
        ConfigError: If it is none of these, or the range is empty.
    """
    if ":" not in text:
        return Choices(values=tuple(_value(name, part) for part in text.split(",")))
    parts = text.split(":")
    scale = parts.pop() if len(parts) == 3 else "linear"
    if len(parts) != 2 or scale not in ("linear", "log"):
        raise ConfigError(f"--space {name}: a range is LOW:HIGH or LOW:HIGH:log, got {text!r}")
    low, high = (_value(name, part) for part in parts)
    if not (_is_number(low) and _is_number(high)):
        raise ConfigError(f"--space {name}: the ends of a range are numbers, got {text!r}")
    assert isinstance(low, int | float)
    assert isinstance(high, int | float)
    if not low < high or (scale == "log" and low <= 0):
        wanted = "0 < LOW < HIGH" if scale == "log" else "LOW < HIGH"
        raise ConfigError(f"--space {name}: a range needs {wanted}, got {text!r}")
    is_integer = isinstance(low, int) and isinstance(high, int)
    if is_integer and scale == "log":
        raise ConfigError(f"--space {name}: a range of whole numbers has no log; write {low}.0")
    return Range(low=low, high=high, is_integer=is_integer, is_log=scale == "log")


def _is_number(value: ArgValue) -> bool:
    return is_finite(value)


def _value(name: str, text: str) -> ArgValue:
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    if isinstance(value, list | dict) or value == "":
        raise ConfigError(f"--space {name}: a value is a number, true, false, null or a text")
    assert value is None or isinstance(value, bool | int | float | str)
    return value
