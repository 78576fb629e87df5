"""Sampling fields of other engines that mean nothing here: each is refused with its reason."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any, Final, TypeVar

from starr_engine.errors import RequestError

T = TypeVar("T")

_BEAMS: Final = "positions are unmasked in any order, so there are no beams; use n samples"
_STRUCTURE: Final = (
    "outputs cannot be bound to a grammar; use allowed_token_ids or check them after"
)
_TOOLS: Final = "tools are not called; describe them in the prompt"
_TRUNCATION: Final = "use top_p, top_k or min_p"
_PENALTY: Final = "use repetition_penalty, presence_penalty or frequency_penalty"
_PROMPT: Final = "the prompt is not scored; logprobs are those of generated tokens"

UNSUPPORTED_FIELDS: Final = {
    "best_of": "samples are not ranked; use n and choose among the samples",
    "use_beam_search": _BEAMS,
    "num_beams": _BEAMS,
    "beam_width": _BEAMS,
    "length_penalty": _BEAMS,
    "early_stopping": _BEAMS,
    "guided_json": _STRUCTURE,
    "guided_regex": _STRUCTURE,
    "guided_choice": _STRUCTURE,
    "guided_grammar": _STRUCTURE,
    "guided_decoding": _STRUCTURE,
    "guided_decoding_backend": _STRUCTURE,
    "guided_whitespace_pattern": _STRUCTURE,
    "structured_outputs": _STRUCTURE,
    "response_format": _STRUCTURE,
    "tools": _TOOLS,
    "tool_choice": _TOOLS,
    "parallel_tool_calls": _TOOLS,
    "functions": _TOOLS,
    "function_call": _TOOLS,
    "top_a": _TRUNCATION,
    "typical_p": _TRUNCATION,
    "epsilon_cutoff": _TRUNCATION,
    "eta_cutoff": _TRUNCATION,
    "tfs": _TRUNCATION,
    "mirostat_mode": _TRUNCATION,
    "do_sample": "temperature above 0 samples, 0 does not",
    "no_repeat_ngram_size": _PENALTY,
    "encoder_repetition_penalty": _PENALTY,
    "logits_processors": "write a remasking policy, or use logit_bias",
    "prompt_logprobs": _PROMPT,
    "echo": _PROMPT,
    "top_logprobs": "logprobs is the number of alternatives here",
    "max_new_tokens": "it is called max_tokens here",
    "max_completion_tokens": "it is called max_tokens here",
    "min_new_tokens": "it is called min_tokens here",
    "truncate_prompt_tokens": "shorten the prompt",
    "spaces_between_special_tokens": "texts are decoded as the checkpoint's tokenizer does",
}
"""Field -> what to do instead. The only list of them."""


def refuses_unsupported(cls: type[T]) -> type[T]:
    """Let a data class raise a ``RequestError`` that says more than Python's ``TypeError``."""
    plain = cls.__init__

    @functools.wraps(plain)
    def checked(self: T, *args: Any, **given: Any) -> None:
        if reason := unsupported_reason(given):
            raise RequestError(reason)
        plain(self, *args, **given)

    cls.__init__ = checked  # type: ignore[assignment, method-assign]
    return cls


def unsupported_reason(names: Iterable[str]) -> str | None:
    """Why a request with fields of these names cannot run; None if none of them is listed."""
    reasons = [
        f"{name} is not supported: {UNSUPPORTED_FIELDS[name]}"
        for name in names
        if name in UNSUPPORTED_FIELDS
    ]
    return "; ".join(reasons) or None
