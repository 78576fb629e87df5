"""What one request asks for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from numbers import Integral, Real
from typing import Any, TypeGuard

from starr_engine.errors import RequestError
from starr_engine.registry import unknown_name

ArgValue = bool | int | float | str | None
Args = Mapping[str, ArgValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """Sampling, remasking and caching of one request; every field is per request.

    Raises:
        RequestError: If a value is out of range; names all of them at once.
    """

    max_tokens: int = 64
    """Length of the canvas after the prompt, in tokens; a multiple of ``block_length``."""

    block_length: int = 32
    """Positions that are denoised together."""

    temperature: float = 0.0
    """0 takes the most probable token; above 0 adds Gumbel noise to float64 logits."""

    seed: int = 0
    """Seed of this request's noise; the same seed gives the same tokens in any batch."""

    stop: tuple[str, ...] = ()
    """Strings that end the output, looked for when a block is committed; not part of the text."""

    stop_token_ids: tuple[int, ...] = ()
    """Token ids that end the output as EOS does."""

    ignore_eos: bool = False
    """Decode all ``max_tokens`` and keep EOS in the output."""

    remasking: str = "starr"
    """Remasking policy: which positions of the block to unmask at a step."""

    remasking_args: Args = field(default_factory=dict)
    """Arguments of the remasking policy, by name."""

    cache: str = "dual"
    """Cache policy: which rows to recompute at a step and which to read from pages."""

    cache_args: Args = field(default_factory=dict)
    """Arguments of the cache policy, by name."""

    trace: bool = False
    """Record every step's candidates, numbers and decisions in the output's ``trace``."""

    def __post_init__(self) -> None:
        for name, value in self._plain().items():
            object.__setattr__(self, name, value)
        problems = self._problems()
        if problems:
            raise RequestError("; ".join(problems))

    def _plain(self) -> dict[str, Any]:
        """Fields whose kind can be settled: numpy's numbers, lists and single stops."""
        plain: dict[str, Any] = {
            name: int(value)
            for name in ("max_tokens", "block_length", "seed")
            if isinstance(value := getattr(self, name), Integral) and not isinstance(value, bool)
        }
        if isinstance(self.temperature, Real) and not isinstance(self.temperature, bool | int):
            plain["temperature"] = float(self.temperature)
        if isinstance(self.stop, str):
            plain["stop"] = (self.stop,)
        elif isinstance(self.stop, Iterable):
            plain["stop"] = tuple(self.stop)
        if isinstance(self.stop_token_ids, Iterable):
            plain["stop_token_ids"] = tuple(
                int(token) if isinstance(token, Integral) and not isinstance(token, bool) else token
                for token in self.stop_token_ids
            )
        for name in ("remasking_args", "cache_args"):
            if isinstance(args := getattr(self, name), Mapping):
                plain[name] = dict(args)
        return plain

    def _problems(self) -> list[str]:
        problems: list[str] = []
        for name in ("max_tokens", "block_length"):
            value = getattr(self, name)
            if not _is_int(value) or value < 1:
                problems.append(f"{name} must be a positive integer, got {value!r}")
        if not problems and self.max_tokens % self.block_length:
            near = max(1, round(self.max_tokens / self.block_length)) * self.block_length
            problems.append(
                f"max_tokens must be a multiple of block_length: max_tokens={self.max_tokens}, "
                f"block_length={self.block_length}; try max_tokens={near}"
            )
        if not is_finite(self.temperature) or self.temperature < 0:
            problems.append(f"temperature must be a finite number >= 0, got {self.temperature!r}")
        if not _is_int(self.seed) or not 0 <= self.seed < 2**63:
            problems.append(f"seed must be an integer in [0, 2**63), got {self.seed!r}")
        if not _is_tuple_of(self.stop, lambda text: isinstance(text, str) and text != ""):
            problems.append(f"stop must hold non-empty strings, got {self.stop!r}")
        if not _is_tuple_of(self.stop_token_ids, lambda token: _is_int(token) and token >= 0):
            problems.append(f"stop_token_ids must hold token ids >= 0, got {self.stop_token_ids!r}")
        if not isinstance(self.ignore_eos, bool):
            problems.append(f"ignore_eos must be True or False, got {self.ignore_eos!r}")
        if not isinstance(self.trace, bool):
            problems.append(f"trace must be True or False, got {self.trace!r}")
        for name in ("remasking", "cache"):
            if not isinstance(getattr(self, name), str):
                problems.append(f"{name} must be a policy name, got {getattr(self, name)!r}")
            problems += _args_problems(f"{name}_args", getattr(self, f"{name}_args"))
        return problems

    @property
    def num_blocks(self) -> int:
        """Blocks of the canvas."""
        return self.max_tokens // self.block_length

    def with_overrides(self, overrides: Mapping[str, Any]) -> SamplingParams:
        """A copy with ``overrides``, checked anew.

        Raises:
            RequestError: If a name is not a field or a value is out of range.
        """
        known = [entry.name for entry in fields(self)]
        for name in overrides:
            if name not in known:
                raise RequestError(unknown_name("sampling field", name, known))
        return replace(self, **overrides)


def is_finite(value: object) -> bool:
    """Whether ``value`` is a number, and no truth value, that tensors can be multiplied with."""
    if isinstance(value, float):
        return math.isfinite(value)
    return _is_int(value) and abs(value) < 2**63


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_tuple_of(values: object, accepts: Callable[[Any], bool]) -> bool:
    return isinstance(values, tuple) and all(accepts(value) for value in values)


def _args_problems(field_name: str, args: object) -> list[str]:
    if not isinstance(args, Mapping) or not all(isinstance(name, str) for name in args):
        return [f"{field_name} must map names to values, got {args!r}"]
    # Policies are compared and hashed by these values, so that equal ones are decided together.
    return [
        f"{field_name}[{name!r}] must be a number, a text, True, False or None, got {value!r}"
        for name, value in args.items()
        if value is not None and not isinstance(value, bool | int | float | str)
    ]
