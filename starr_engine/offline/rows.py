"""One line of the input, and the line of the output that answers it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Final, Protocol

from starr_engine.errors import ConfigError, RequestError
from starr_engine.infilling import (
    INFILL_FIELDS,
    Candidates,
    TokenPrompt,
    is_infill,
    parse_infill,
)
from starr_engine.outputs import RequestOutput, TokenLogprob
from starr_engine.params import SamplingParams
from starr_engine.tokenization import check_messages
from starr_engine.unsupported import unsupported_reason

PROMPT_FIELDS: Final = ("prompt", "messages", "prompt_token_ids")
SAMPLING_FIELDS: Final = tuple(
    entry.name for entry in fields(SamplingParams) if entry.name != "trace"
)
"""What a row may ask for; its output has no place for a trace."""
RESULT_FIELDS: Final = (
    "text", "token_ids", "finish_reason", "nfe", "tpf", "cache_label", "error"
)  # fmt: skip
"""What the job adds to a row; no column of the input may have one of these names."""
SLOTS_FIELD: Final = "slots"
"""What the job adds to rows with a gap or a template, behind the other results."""

OPTIONAL_FIELDS: Final = ("logprobs", "drift", "samples")
"""What it adds to rows that ask for ``logprobs``, a ``cache_probe_rate``, or ``n`` above 1
samples."""

_DEFAULTS: Final = SamplingParams()

Columns = Mapping[str, object]


class Encoder(Protocol):
    """The part of the tokenizer that rows need."""

    def encode(self, text: str) -> list[int]:
        """Ids of a prompt."""

    def encode_part(self, text: str) -> list[int]:
        """Ids of a text further behind."""

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Ids of a conversation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRow:
    """A row as the input has it."""

    index: int
    """Counted from 0 over the rows of the input."""

    columns: Columns = field(default_factory=dict)
    """Empty if the row could not be read."""

    error: str | None = None
    """Why the row could not be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row ready for the engine, or with the reason why it cannot run."""

    index: int
    row_id: object
    """The row's own ``id``, of any type; None where it has none."""

    carried: Columns
    """Columns that mean nothing to the engine, as they came."""

    candidates: Candidates = ()
    """What to run; several if the row has a range of gap lengths, none if it has an error."""

    params: SamplingParams
    error: str | None = None

    @property
    def is_infill(self) -> bool:
        """Whether the row has a gap or a template."""
        return any(candidate.template is not None for candidate in self.candidates)


def parse_row(raw: RawRow, defaults: SamplingParams, get_tokenizer: Callable[[], Encoder]) -> Row:
    """Turn a row of the input into a request; a bad row becomes a row with an error.

    The tokenizer is asked for only by rows of text: a model without one still takes ids, whose
    range the engine checks.

    A column that is null counts as absent, because a Parquet file has every column in every row.
    A row that names another remasking or cache policy or exit rule than ``defaults`` and gives no
    arguments for it runs that one with its own defaults, not with the arguments of the other one.
    """
    carried = {name: value for name, value in raw.columns.items() if is_carried(name)}
    row_id = raw.columns.get("id")
    if raw.error is not None:
        return Row(
            index=raw.index, row_id=row_id, carried=carried, params=defaults, error=raw.error
        )
    given = {name: value for name, value in raw.columns.items() if value is not None}
    try:
        _refuse_columns(given)
        params = _params(given, defaults)
        candidates = _candidates(given, get_tokenizer)
    except (RequestError, ConfigError) as error:
        return Row(
            index=raw.index, row_id=row_id, carried=carried, params=defaults, error=str(error)
        )
    return Row(
        index=raw.index, row_id=row_id, carried=carried, params=params, candidates=candidates
    )


def failed_row(raw: RawRow, reason: str) -> dict[str, object]:
    """The output's columns of a row that never came to run."""
    carried = {name: value for name, value in raw.columns.items() if is_carried(name)}
    return _error_columns(raw.columns.get("id"), carried, raw.error or reason)


def output_row(row: Row, result: RequestOutput | str) -> dict[str, object]:
    """The output's columns: ``id``, what is carried through, and the result or the error.

    Args:
        row: The row of the input.
        result: What the engine gave back, or why there is no result.
    """
    if isinstance(result, str):
        return _error_columns(row.row_id, row.carried, result)
    columns: dict[str, object] = {"id": row.row_id, **row.carried}
    columns |= {
        "text": result.text,
        "token_ids": list(result.token_ids),
        "finish_reason": str(result.finish_reason),
        "nfe": result.nfe,
        "tpf": result.tpf,
        "cache_label": result.cache_label,
        "error": None,
    }
    if row.is_infill:
        columns[SLOTS_FIELD] = list(result.slots)
    if result.logprobs is not None:
        columns["logprobs"] = logprob_objects(result.logprobs)
    if result.drift is not None:
        columns["drift"] = asdict(result.drift)
    if result.other_samples:
        columns["samples"] = [sample_object(sample) for sample in result.samples]
    return columns


def _error_columns(row_id: object, carried: Columns, reason: str) -> dict[str, object]:
    return {"id": row_id, **carried, **dict.fromkeys(RESULT_FIELDS), "error": reason}


def sample_object(sample: RequestOutput) -> dict[str, object]:
    """One of several samples of a row."""
    shown: dict[str, object] = {
        "text": sample.text,
        "token_ids": list(sample.token_ids),
        "finish_reason": str(sample.finish_reason),
        "nfe": sample.nfe,
        "tpf": sample.tpf,
    }
    if sample.logprobs is not None:
        shown["logprobs"] = logprob_objects(sample.logprobs)
    if sample.drift is not None:
        shown["drift"] = asdict(sample.drift)
    return shown


def logprob_objects(logprobs: Sequence[TokenLogprob]) -> list[dict[str, object]]:
    """Log-probabilities as JSON has them."""
    return [
        {
            "token_id": token.token_id,
            "logprob": token.logprob,
            "step": token.step,
            "top": [{"token_id": other, "logprob": value} for other, value in token.top],
        }
        for token in logprobs
    ]


def is_carried(name: str) -> bool:
    """Whether a column of the input goes to the output as it is."""
    return name != "id" and name not in (
        *PROMPT_FIELDS, *INFILL_FIELDS, *SAMPLING_FIELDS, *RESULT_FIELDS, *OPTIONAL_FIELDS
    )  # fmt: skip


def _refuse_columns(given: Columns) -> None:
    """Refuse what would be overwritten, and what asks for something that is not done."""
    if reason := unsupported_reason(given):
        raise RequestError(reason)
    added = (*RESULT_FIELDS, "drift", "samples", *((SLOTS_FIELD,) if is_infill(given) else ()))
    taken = [name for name in added if name in given]
    if taken:
        raise RequestError(
            f"column {', '.join(map(repr, taken))} has the name of an output column; rename it"
        )


def _candidates(given: Columns, get_tokenizer: Callable[[], Encoder]) -> Candidates:
    if not is_infill(given):
        ids = _prompt_ids(given, get_tokenizer)
        return (TokenPrompt(prompt_token_ids=tuple(ids)),)
    if "max_tokens" in given:
        raise RequestError("a gap or template says how many tokens to generate; drop max_tokens")
    prompt = {name: given[name] for name in (*PROMPT_FIELDS, *INFILL_FIELDS) if name in given}
    for name in ("gap", "template"):
        # A Parquet column has one type, which a text that is JSON can get around.
        if isinstance(text := prompt.get(name), str):
            try:
                prompt[name] = json.loads(text)
            except ValueError:
                raise RequestError(f"{name} must be JSON, got {_show(text)}") from None
    return parse_infill(prompt, get_tokenizer)


def _prompt_ids(given: Columns, get_tokenizer: Callable[[], Encoder]) -> Sequence[int]:
    present = [name for name in PROMPT_FIELDS if name in given]
    if len(present) != 1:
        raise RequestError(
            f"a row needs exactly one of {', '.join(PROMPT_FIELDS)}, or a gap or template; "
            f"this one has {' and '.join(present) or 'none'}"
        )
    value = given[present[0]]
    if present == ["prompt"]:
        if not isinstance(value, str):
            raise RequestError(f"prompt must be a string, got {_show(value)}")
        return get_tokenizer().encode(value)
    if not isinstance(value, list):
        raise RequestError(f"{present[0]} must be a list, got {_show(value)}")
    if present == ["messages"]:
        # A struct of a Parquet file has all keys in every message, null where not given.
        messages = [
            {key: entry for key, entry in message.items() if entry is not None}
            if isinstance(message, dict)
            else message
            for message in value
        ]
        check_messages(messages)
        return get_tokenizer().encode_chat(messages)
    if not all(isinstance(token, int) and not isinstance(token, bool) for token in value):
        raise RequestError(f"prompt_token_ids must hold integers, got {_show(value)}")
    return value


def _params(given: Columns, defaults: SamplingParams) -> SamplingParams:
    overrides = {name: given[name] for name in SAMPLING_FIELDS if name in given}
    for name, value in overrides.items():
        _check_kind(name, value)
    if isinstance(bias := overrides.get("logit_bias"), dict):
        # A struct of a Parquet file has all keys in every row.
        overrides["logit_bias"] = {key: value for key, value in bias.items() if value is not None}
    for policy in ("remasking", "cache", "early_exit"):
        args = f"{policy}_args"
        if isinstance(value := overrides.get(args), dict):
            overrides[args] = {name: arg for name, arg in value.items() if arg is not None}
        elif overrides.get(policy, getattr(defaults, policy)) != getattr(defaults, policy):
            overrides[args] = {}
    return defaults.with_overrides(overrides)


def _check_kind(name: str, value: object) -> None:
    """Refuse what ``SamplingParams`` is not meant to be asked; ranges are its own affair."""
    if isinstance(getattr(_DEFAULTS, name), bool) and not isinstance(value, bool):
        raise RequestError(f"{name} must be true or false, got {_show(value)}")
    if name == "temperature" and isinstance(value, bool):
        raise RequestError(f"temperature must be a number, got {_show(value)}")
    if name in ("stop", "bad_words") and not isinstance(value, str | list):
        raise RequestError(f"{name} must be a string or a list of strings, got {_show(value)}")
    if name in ("stop_token_ids", "allowed_token_ids") and not isinstance(value, list):
        raise RequestError(f"{name} must be a list of integers, got {_show(value)}")


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
