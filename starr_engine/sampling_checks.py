"""Kinds and ranges of the fields of ``SamplingParams`` that shape candidates and samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Final, TypeGuard

if TYPE_CHECKING:
    from starr_engine.params import SamplingParams

MAX_LOGPROBS: Final = 20
"""Most alternatives of a token, as in OpenAI's and vLLM's interfaces."""

MAX_SAMPLES: Final = 1024
"""Most samples of one prompt; a bound against typing errors."""

_COUNTS: Final = ("top_k", "min_tokens", "n", "logprobs")
_NUMBERS: Final = ("top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
_FLAGS: Final = (
    "ignore_eos", "suppress_eos", "eos_last", "include_stop_str_in_output", "skip_special_tokens"
)  # fmt: skip


def plain_sampling_fields(params: SamplingParams) -> dict[str, Any]:
    """Fields whose kind can be settled: numpy's numbers, lists, ids given as text."""
    plain: dict[str, Any] = {}
    for name in _COUNTS:
        plain[name] = plain_int(getattr(params, name))
    for name in _NUMBERS:
        if isinstance(value := getattr(params, name), Real) and not isinstance(value, bool | int):
            plain[name] = float(value)
    if plain["top_k"] == -1:  # vLLM's other word for off: equal settings compare equal
        plain["top_k"] = 0
    if isinstance(params.bad_words, str):
        plain["bad_words"] = (params.bad_words,)
    elif isinstance(params.bad_words, Iterable):
        plain["bad_words"] = tuple(params.bad_words)
    if isinstance(params.allowed_token_ids, Iterable):
        plain["allowed_token_ids"] = tuple(plain_int(token) for token in params.allowed_token_ids)
    if isinstance(params.logit_bias, Mapping):
        plain["logit_bias"] = {_as_id(key): value for key, value in params.logit_bias.items()}
    return plain


def sampling_problems(params: SamplingParams) -> list[str]:
    """What is wrong with these fields, one sentence each."""
    problems = [
        f"{name} must be True or False, got {value!r}"
        for name in _FLAGS
        if not isinstance(value := getattr(params, name), bool)
    ]

    def check(name: str, accepts: Callable[[Any], bool], wanted: str) -> None:
        if not accepts(value := getattr(params, name)):
            problems.append(f"{name} must be {wanted}, got {value!r}")

    check("top_p", lambda p: is_finite(p) and 0 < p <= 1, "a number in (0, 1]")
    check("top_k", lambda k: is_int(k) and k >= 0, "an integer >= 1, or 0 or -1 for off")
    check("min_p", lambda p: is_finite(p) and 0 <= p <= 1, "a number in [0, 1]")
    check("repetition_penalty", lambda p: is_finite(p) and p > 0, "a finite number > 0")
    for name in ("presence_penalty", "frequency_penalty"):
        check(name, lambda p: is_finite(p) and -2 <= p <= 2, "a number in [-2, 2]")
    check("logit_bias", _is_bias, "a mapping of token ids >= 0 to numbers in [-100, 100]")
    check("bad_words", lambda words: is_tuple_of(words, _is_text), "non-empty strings")
    check(
        "allowed_token_ids",
        lambda ids: ids is None or (ids != () and is_tuple_of(ids, is_token_id)),
        "None or a non-empty list of token ids >= 0",
    )
    check("min_tokens", lambda count: is_int(count) and count >= 0, "an integer >= 0")
    check("n", lambda n: is_int(n) and 1 <= n <= MAX_SAMPLES, f"an integer in 1 .. {MAX_SAMPLES}")
    check(
        "logprobs",
        lambda count: count is None or (is_int(count) and 0 <= count <= MAX_LOGPROBS),
        f"None or an integer in 0 .. {MAX_LOGPROBS}",
    )
    return problems or _contradictions(params)


def _contradictions(params: SamplingParams) -> list[str]:
    """What two fields, each fine by itself, say against each other."""
    problems = []
    if is_int(params.max_tokens) and params.min_tokens > params.max_tokens:
        problems.append(
            f"min_tokens={params.min_tokens} is more than max_tokens={params.max_tokens}"
        )
    if params.n > 1 and params.temperature == 0:
        problems.append(
            f"n={params.n} samples at temperature 0 would all be equal; set a temperature above 0"
        )
    return problems


def is_finite(value: object) -> bool:
    """Whether ``value`` is a number, and no truth value, that tensors can be multiplied with."""
    if isinstance(value, float):
        return math.isfinite(value)
    return is_int(value) and abs(value) < 2**63


def is_int(value: object) -> TypeGuard[int]:
    """Whether ``value`` is an integer and no truth value."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_token_id(value: object) -> bool:
    """Whether ``value`` may be a token id; whether the model has it is the engine's to check."""
    return is_int(value) and value >= 0


def is_tuple_of(values: object, accepts: Callable[[Any], bool]) -> bool:
    """Whether ``values`` is a tuple whose entries are all accepted."""
    return isinstance(values, tuple) and all(accepts(value) for value in values)


def plain_int(value: object) -> object:
    """Python's integer for any kind of integer; everything else as it is."""
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else value


def _as_id(key: object) -> object:
    # JSON has no other keys than text.
    if isinstance(key, str) and key.isascii() and key.isdigit():
        return int(key)
    return plain_int(key)


def _is_bias(bias: object) -> bool:
    return isinstance(bias, Mapping) and all(
        is_token_id(token) and is_finite(value) and -100 <= value <= 100
        for token, value in bias.items()
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value.strip() != ""
