"""Settings to try: drawn evenly from the space, and around those that did well."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

from starr_engine.errors import ConfigError, RequestError
from starr_engine.params import ArgValue
from starr_engine.study.calibration.spaces import SearchSpace

Setting = Mapping[str, ArgValue]
"""Arguments of the policy that are searched; fixed ones are not part of it."""

MAX_TRIES: Final = 200
"""Draws for one setting before the space counts as one of invalid combinations."""


def key_of(setting: Setting) -> str:
    """A text that is equal for equal settings."""
    return json.dumps(dict(sorted(setting.items())))


def draw(
    space: SearchSpace, count: int, rng: random.Random, check: Callable[[Setting], object]
) -> list[Setting]:
    """At most ``count`` different settings, spread by a Latin hypercube.

    Every argument's range is cut into ``count`` equal parts and each part is used once. A setting
    that the policy refuses, for tau_min > tau_max say, is drawn again without that care. A space
    of few values may give fewer settings.

    Args:
        space: Where to draw.
        count: How many.
        rng: Source of all randomness; equal states give equal settings.
        check: Raises RequestError for a combination that the policy refuses.

    Raises:
        ConfigError: If the policy refuses nearly everything in the space; with its last reason.
    """
    columns = {name: rng.sample(range(count), count) for name in sorted(space)}
    settings: dict[str, Setting] = {}
    for row in range(count):

        def stratified(name: str, row: int = row) -> float:
            return (columns[name][row] + rng.random()) / count

        setting = _make(space, stratified, check) or _retry(space, rng, check)
        settings.setdefault(key_of(setting), setting)
    return list(settings.values())


def neighbours(
    space: SearchSpace,
    centres: Sequence[Setting],
    count: int,
    rng: random.Random,
    check: Callable[[Setting], object],
    *,
    spread: float,
    known: Collection[str],
) -> list[Setting]:
    """At most ``count`` new settings near the ``centres``, which take turns.

    About half of the arguments move, by a normal step of ``spread`` times their range; at the ends
    of a range they turn back.

    Args:
        space: Where to stay.
        centres: Settings that did well.
        count: How many.
        rng: As for :func:`draw`.
        check: As for :func:`draw`.
        spread: Standard deviation of a step, as a share of the range.
        known: Keys of settings that were tried already.
    """
    found: dict[str, Setting] = {}
    for number in range(count):
        centre = centres[number % len(centres)]
        for _ in range(MAX_TRIES):
            moving = [name for name in sorted(space) if rng.random() < 0.5] or [
                rng.choice(sorted(space))
            ]
            places = {
                name: dimension.place(centre[name]) if name in centre else rng.random()
                for name, dimension in sorted(space.items())
            }
            for name in moving:
                places[name] = _reflect(places[name] + rng.gauss(0.0, spread))
            # Arguments that stay keep their value, whatever rounding their place went through.
            setting = _make(space, places.__getitem__, check)
            if setting is None:
                continue
            setting = {
                name: value if name in moving or name not in centre else centre[name]
                for name, value in setting.items()
            }
            key = key_of(setting)
            if key not in known and key not in found and _is_valid(setting, check):
                found[key] = setting
                break
    return list(found.values())


def _make(
    space: SearchSpace, place: Callable[[str], float], check: Callable[[Setting], object]
) -> Setting | None:
    setting = {name: dimension.at(place(name)) for name, dimension in sorted(space.items())}
    return setting if _is_valid(setting, check) else None


def _retry(space: SearchSpace, rng: random.Random, check: Callable[[Setting], object]) -> Setting:
    setting: Setting = {}
    for _ in range(MAX_TRIES):
        setting = {name: each.at(rng.random()) for name, each in sorted(space.items())}
        if _is_valid(setting, check):
            return setting
    try:
        check(setting)
    except RequestError as error:
        raise ConfigError(
            f"the policy refuses {MAX_TRIES} settings in a row from this search space, the last "
            f"{key_of(setting)} because {error}; narrow the space with --space"
        ) from error
    raise AssertionError("the last setting was refused a moment ago")


def _is_valid(setting: Setting, check: Callable[[Setting], object]) -> bool:
    try:
        check(setting)
    except RequestError:
        return False
    return True


def _reflect(place: float) -> float:
    place = abs(place) % 2.0
    return min(2.0 - place if place > 1.0 else place, 1.0 - 1e-9)
