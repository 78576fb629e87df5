"""What users give as a prompt, and how it becomes token ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from starr_engine.errors import RequestError
from starr_engine.infilling import Candidates, TokenPrompt, is_infill, parse_infill
from starr_engine.tokenization import Tokenizer

Prompt = str | Mapping[str, Any]
"""A text, or ``{"prompt": text}``, or ``{"prompt_token_ids": [...]}``; with a gap or fixed tokens
``{"prefix": text, "suffix": text, "gap": 12}`` or ``{"prompt": text, "template": ["Name: ", 4]}``,
see docs/infilling.md."""

Message = Mapping[str, str]
"""``{"role": ..., "content": ...}``."""


def encode_prompt(prompt: Prompt, get_tokenizer: Callable[[], Tokenizer]) -> Candidates:
    """A prompt as the engine takes it; several if its gap has a range of lengths.

    Args:
        prompt: As users give it.
        get_tokenizer: Asked only if there is text to encode.

    Raises:
        RequestError: If the prompt has no form known here, or its text cannot be encoded.
    """
    if isinstance(prompt, str):
        return _alone(get_tokenizer().encode(prompt))
    if isinstance(prompt, Mapping) and is_infill(prompt):
        return parse_infill(prompt, get_tokenizer)
    if isinstance(prompt, Mapping) and len(prompt) == 1:
        if isinstance(ids := prompt.get("prompt_token_ids"), Iterable):
            return _alone(list(ids))
        if isinstance(text := prompt.get("prompt"), str):
            return _alone(get_tokenizer().encode(text))
    raise RequestError(
        'a prompt is a text, {"prompt": text} or {"prompt_token_ids": [...]}, or has a gap or '
        f"a template, got {prompt!r}"
    )


def encode_chat(messages: Sequence[Message], get_tokenizer: Callable[[], Tokenizer]) -> Candidates:
    """A conversation as the engine takes it, through the checkpoint's chat template.

    Raises:
        RequestError: If the messages are malformed or the model has no template.
    """
    return _alone(get_tokenizer().encode_chat(messages))


def _alone(ids: Sequence[int]) -> Candidates:
    return (TokenPrompt(prompt_token_ids=ids),)
