"""What happened to one request, step by step: every candidate, every number, every decision."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from starr_engine.errors import ConfigError
from starr_engine.params import Args

FORMAT_VERSION: Final = 1
"""Of the JSON form; raised when a field changes its meaning."""

Floats = NDArray[np.float32]
Ids = NDArray[np.int32]
Codes = NDArray[np.uint8]


class Outcome(IntEnum):
    """What a step did to a position of the active block."""

    KEPT = 0
    """It held a token before the step and holds it still."""

    MASKED = 1
    """It was a mask and stays one."""

    UNMASKED = 2
    """It was a mask and became a token."""

    REVOKED = 3
    """It held a token and became a mask again."""

    EDITED = 4
    """It held a token and holds another one now."""


class Decider(IntEnum):
    """Whose word an outcome was: the last one that changed it."""

    NOBODY = 0
    """Nothing was to be decided: the position held a token and keeps it."""

    POLICY = 1
    """The remasking policy."""

    GUARANTEE = 2
    """The progress guarantee, because the policy would have unmasked nothing."""

    EARLY_EXIT = 3
    """Early termination, which unmasks all that is left."""

    ENGINE = 4
    """Another rule of the engine: the bound on revocations, for one."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PositionTrace:
    """One step of one request: what is known of each of the L positions of its active block."""

    candidates: Ids
    """[L] proposed token at a mask, the token put there where one was unmasked or edited, else the
    token that stood there."""

    confidence: Floats
    """[L] what the policy compared; NaN where the position was not scored."""

    signals: Mapping[str, Floats]
    """[L] by name, as the policy gave them: "threshold", "variance", "deviance" and others. NaN
    where the position was not scored; a name the policy never gives is absent."""

    outcomes: Codes
    """[L] of ``Outcome``."""

    deciders: Codes
    """[L] of ``Decider``."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TraceStep:
    """One model forward of a request, and what was decided from it."""

    kind: str
    """Of ``StepKind``: ``prefill``, ``refresh``, ``block`` or ``commit``."""

    block_index: int

    block_start: int
    """First position of the active block on the canvas."""

    num_live: int
    """Rows that exist for the model: what a step without cache computes."""

    num_rows: int
    """Token rows that the forward computed for this request."""

    time_s: float
    """Wall time from laying out the batch to the decision; all requests of the batch share it."""

    positions: PositionTrace


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trace:
    """A request from its first forward to its last; needs neither model nor tokenizer to be read.

    Arrays are not to be written to. Forward number n (NFE) is ``steps[n - 1]``; one that failed
    has no step.
    """

    model: str
    """As the engine was asked for it."""

    remasking: str
    remasking_args: Args
    cache: str
    cache_args: Args
    cache_label: str
    temperature: float
    seed: int

    prompt_text: str
    """Without special tokens; empty if the model has no tokenizer."""

    text: str
    """The output's text."""

    finish_reason: str

    mask_token_id: int

    num_prompt_tokens: int

    num_visible_ids: int
    """Generated tokens that the output shows: without EOS and what follows it."""

    initial_ids: Ids
    """[N] the canvas before the first step: prompt, and masks to fill."""

    final_ids: Ids
    """[N] the canvas after the last step."""

    token_texts: Mapping[int, str]
    """Text of every id that occurs, special tokens by name; empty without a tokenizer."""

    steps: tuple[TraceStep, ...]

    @property
    def prompt_token_ids(self) -> Ids:
        """[P] what the user gave."""
        return self.initial_ids[: self.num_prompt_tokens]

    @property
    def nfe(self) -> int:
        """Forwards recorded."""
        return len(self.steps)

    @property
    def num_unmasked(self) -> int:
        """Masks that became tokens, less those masked again."""
        return sum(
            int((step.positions.outcomes == Outcome.UNMASKED).sum())
            - int((step.positions.outcomes == Outcome.REVOKED).sum())
            for step in self.steps
        )

    def to_json(self) -> str:
        """The trace as one JSON object; NaN is null there, infinities are texts."""
        return json.dumps(trace_to_plain(self), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Trace:
        """The trace that ``to_json`` wrote, number for number.

        Raises:
            ConfigError: If the text is no trace, or one of another version.
        """
        try:
            plain = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"not a trace: {error}") from error
        return trace_from_plain(plain)


def trace_to_plain(trace: Trace) -> dict[str, Any]:
    """The object that ``Trace.to_json`` writes."""
    plain: dict[str, Any] = {"version": FORMAT_VERSION}
    for name in _PLAIN_FIELDS:
        value = getattr(trace, name)
        plain[name] = dict(value) if isinstance(value, Mapping) else value
    return plain | {
        "initial_ids": trace.initial_ids.tolist(),
        "final_ids": trace.final_ids.tolist(),
        "token_texts": {str(token): text for token, text in trace.token_texts.items()},
        "outcome_names": [outcome.name.lower() for outcome in Outcome],
        "decider_names": [decider.name.lower() for decider in Decider],
        "steps": [_step_to_plain(step) for step in trace.steps],
    }


def trace_from_plain(plain: object) -> Trace:
    """The trace of an object that ``trace_to_plain`` made.

    Raises:
        ConfigError: If the object is no trace, or one of another version.
    """
    if not isinstance(plain, dict) or "version" not in plain:
        raise ConfigError("not a trace: it has no version; a trace is what Trace.to_json writes")
    if plain["version"] != FORMAT_VERSION:
        raise ConfigError(
            f"a trace of version {plain['version']!r}; this release reads {FORMAT_VERSION}: "
            "record it again"
        )
    try:
        trace = Trace(
            **{name: _checked(name, plain[name]) for name in _PLAIN_FIELDS},
            initial_ids=_array(plain["initial_ids"], np.int32),
            final_ids=_array(plain["final_ids"], np.int32),
            token_texts={int(token): str(text) for token, text in plain["token_texts"].items()},
            steps=tuple(_step_from_plain(step) for step in plain["steps"]),
        )
        _check(trace)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ConfigError(f"not a trace: {type(error).__name__}: {error}") from error
    return trace


_PLAIN_FIELDS: Final[Mapping[str, type]] = {
    "model": str,
    "remasking": str,
    "remasking_args": dict,
    "cache": str,
    "cache_args": dict,
    "cache_label": str,
    "temperature": float,
    "seed": int,
    "prompt_text": str,
    "text": str,
    "finish_reason": str,
    "mask_token_id": int,
    "num_prompt_tokens": int,
    "num_visible_ids": int,
}
"""Fields that JSON holds as they are."""


def _checked(name: str, value: object) -> Any:
    if not isinstance(value, _PLAIN_FIELDS[name]):
        raise TypeError(f"{name} must be {_PLAIN_FIELDS[name].__name__}, got {value!r}")
    return value


def _step_to_plain(step: TraceStep) -> dict[str, Any]:
    positions = step.positions
    return {
        "kind": step.kind,
        "block_index": step.block_index,
        "block_start": step.block_start,
        "num_live": step.num_live,
        "num_rows": step.num_rows,
        "time_s": step.time_s,
        "candidates": positions.candidates.tolist(),
        "confidence": _numbers(positions.confidence),
        "signals": {name: _numbers(values) for name, values in positions.signals.items()},
        "outcomes": positions.outcomes.tolist(),
        "deciders": positions.deciders.tolist(),
    }


def _step_from_plain(plain: Mapping[str, Any]) -> TraceStep:
    return TraceStep(
        kind=str(plain["kind"]),
        block_index=int(plain["block_index"]),
        block_start=int(plain["block_start"]),
        num_live=int(plain["num_live"]),
        num_rows=int(plain["num_rows"]),
        time_s=float(plain["time_s"]),
        positions=PositionTrace(
            candidates=_array(plain["candidates"], np.int32),
            confidence=_floats(plain["confidence"]),
            signals={str(name): _floats(values) for name, values in plain["signals"].items()},
            outcomes=_array(plain["outcomes"], np.uint8),
            deciders=_array(plain["deciders"], np.uint8),
        ),
    )


def _check(trace: Trace) -> None:
    length = len(trace.initial_ids)
    if len(trace.final_ids) != length or not 0 < trace.num_prompt_tokens <= length:
        raise ValueError("the lengths of its canvases do not agree")
    for number, step in enumerate(trace.steps, 1):
        positions = step.positions
        columns: tuple[NDArray[Any], ...] = (
            positions.confidence,
            positions.outcomes,
            positions.deciders,
            *positions.signals.values(),
        )
        size = len(positions.candidates)
        if any(len(column) != size for column in columns):
            raise ValueError(f"the columns of step {number} do not have one length")
        if not 0 <= step.block_start <= length - size:
            raise ValueError(f"the block of step {number} is not on the canvas")
        for column, codes in ((positions.outcomes, Outcome), (positions.deciders, Decider)):
            if size and column.max() >= len(codes):
                raise ValueError(f"step {number} has an unknown {codes.__name__.lower()}")


def _numbers(values: Floats) -> list[float | str | None]:
    """Shortest decimals that give back each float32."""
    return [_number(value) for value in values]


def _number(value: np.float32) -> float | str | None:
    if np.isfinite(value):
        return float(str(value))
    return None if np.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


def _floats(values: list[float | str | None]) -> Floats:
    return _array([math.nan if value is None else float(value) for value in values], np.float32)


def _array(values: Any, dtype: type[np.generic]) -> NDArray[Any]:
    array = np.array(values, dtype).reshape(len(values))
    array.setflags(write=False)
    return array
