"""What a task asks of generation, in the engine's terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from lm_eval.models.utils import normalize_gen_kwargs

from starr_engine.errors import RequestError
from starr_engine.params import SamplingParams
from starr_engine.registry import unknown_name
from starr_engine.tokenization import Tokenizer
from starr_engine.unsupported import unsupported_reason

_NEUTRAL: Final[Mapping[str, tuple[object, ...]]] = {
    "num_beams": (1, None),
    "length_penalty": (1, None),
    "early_stopping": (False, None),
    "no_repeat_ngram_size": (0, None),
    "typical_p": (1, None),
    "num_return_sequences": (1, None),
    "use_cache": (True, False, None),
    "pad_token_id": (None,),
}
"""Names of transformers that some tasks set, with the values under which they change nothing."""

_NOT_OFFERED: Final = {
    "n": "the harness repeats requests itself (repeats of the task)",
    "trace": "use `starr-engine trace`",
    "logprobs": "texts are all that the harness takes",
    "stop": "it is called until in a task",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """Of one request."""

    max_gen_toks: int
    overrides: Mapping[str, Any]
    """Fields of ``SamplingParams``, the length aside."""


def parse_generation(
    kwargs: Mapping[str, Any], tokenizer: Tokenizer, default_max_gen_toks: int
) -> Generation:
    """Read ``generation_kwargs``.

    ``until`` becomes stop strings, and stop tokens where it spells a special token, which no text
    shows. Sampling without a temperature has the temperature 1, as in transformers. Fields of
    ``SamplingParams`` are taken as they are.

    Args:
        kwargs: Of the task, with what ``--gen_kwargs`` changes.
        tokenizer: Of the model.
        default_max_gen_toks: For tasks that name no length.

    Raises:
        RequestError: If a name means nothing here; says which, and what to do.
    """
    asked = dict(normalize_gen_kwargs(dict(kwargs), default_max_gen_toks))
    until, length = asked.pop("until"), int(asked.pop("max_gen_toks"))
    if asked.pop("do_sample"):
        asked.setdefault("temperature", 1.0)
    for name, neutral in _NEUTRAL.items():
        if name in asked and asked[name] in neutral:
            del asked[name]
    _check(asked)
    ends = {text: tokenizer.special_id(text) for text in until}
    if tokens := tuple(token for token in ends.values() if token is not None):
        asked["stop_token_ids"] = (*asked.get("stop_token_ids", ()), *tokens)
    if texts := tuple(text for text, token in ends.items() if token is None):
        asked["stop"] = texts
    return Generation(max_gen_toks=length, overrides=asked)


def _check(asked: Mapping[str, Any]) -> None:
    known = [each.name for each in fields(SamplingParams)]
    problems = [f"{name}: {_NOT_OFFERED[name]}" for name in asked if name in _NOT_OFFERED]
    if reason := unsupported_reason(asked):
        problems.append(reason)
    problems += [
        unknown_name("entry", name, known)
        for name in asked
        if name not in known and unsupported_reason([name]) is None
    ]
    if problems:
        raise RequestError(f"generation_kwargs of the task: {'; '.join(problems)}")
