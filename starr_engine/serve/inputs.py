"""From the body of a request to what the engine takes."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from starr_engine.errors import RequestError
from starr_engine.infilling import gap_lengths
from starr_engine.params import SamplingParams
from starr_engine.prompts import Message, Prompt
from starr_engine.serve.errors import ApiError
from starr_engine.serve.schemas import ChatBody, CompletionBody, SamplingFields

_SAME_FIELDS: Final = (
    "max_tokens", "n", "seed", "stop", "temperature", "top_p", "presence_penalty",
    "frequency_penalty", "logit_bias", "top_k", "min_p", "repetition_penalty", "bad_words",
    "allowed_token_ids", "stop_token_ids", "min_tokens", "ignore_eos",
    "include_stop_str_in_output", "skip_special_tokens", "cache_salt", "priority", "block_length",
    "remasking", "remasking_args", "cache", "cache_args", "cache_probe_rate", "early_exit",
    "early_exit_args", "suppress_eos", "eos_last", "trace",
)  # fmt: skip
"""Fields that ``SamplingParams`` has under the same name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one HTTP request asks of the engine."""

    prompts: tuple[Prompt, ...]
    """Of a chat none."""

    messages: tuple[Message, ...]
    """Of a completion none."""

    params: SamplingParams
    provisional: bool

    @property
    def num_prompts(self) -> int:
        """Calls of the engine, each of ``params.n`` choices."""
        return len(self.prompts) or 1


def completion_work(
    body: CompletionBody, defaults: SamplingParams, *, salt: str, max_model_len: int
) -> Work:
    """What a body of ``/v1/completions`` asks for.

    Args:
        body: Of the right kinds.
        defaults: For what it does not say.
        salt: In front of its own ``cache_salt``.
        max_model_len: Of the engine; a longer gap is refused before memory is taken for it.

    Raises:
        RequestError: If a value is out of range, or parts contradict each other.
    """
    params = _params(body, defaults, salt, {"logprobs": body.logprobs})
    prompts = tuple(_prompt(part, body, params, max_model_len) for part in _prompt_list(body))
    return Work(prompts=prompts, messages=(), params=params, provisional=bool(body.provisional))


def chat_work(body: ChatBody, defaults: SamplingParams, *, salt: str) -> Work:
    """What a body of ``/v1/chat/completions`` asks for; else as :func:`completion_work`."""
    own: dict[str, Any] = {}
    if body.max_completion_tokens is not None:
        if body.max_tokens not in (None, body.max_completion_tokens):
            raise RequestError("max_tokens and max_completion_tokens are the same; give one")
        own["max_tokens"] = body.max_completion_tokens
    if body.logprobs:
        own["logprobs"] = body.top_logprobs or 0
    elif body.top_logprobs:
        raise RequestError("top_logprobs needs logprobs to be true")
    messages = tuple(
        {
            "role": "system" if message.role == "developer" else message.role,
            "content": message.content
            if isinstance(message.content, str)
            else "".join(part.text for part in message.content),
        }
        for message in body.messages
    )
    params = _params(body, defaults, salt, own)
    return Work(prompts=(), messages=messages, params=params, provisional=bool(body.provisional))


def check_work(work: Work, body: SamplingFields, max_choices: int) -> None:
    """Refuse what one request may not ask for.

    Raises:
        ApiError: If it has too many choices, or asks for parts of a stream without one.
    """
    lengths = 1
    for prompt in work.prompts[:1]:
        if isinstance(prompt, Mapping) and "gap" in prompt:
            lengths = len(gap_lengths(prompt["gap"]))
    choices = work.num_prompts * work.params.n * lengths
    if choices > max_choices:
        raise ApiError(
            400,
            f"{work.num_prompts} prompts, n={work.params.n} and {lengths} gap lengths make "
            f"{choices} choices, and this server allows {max_choices}; send several requests",
            param="prompt" if work.num_prompts > 1 else "gap" if lengths > 1 else "n",
        )
    if not body.stream:
        for name in ("stream_options", "provisional"):
            if getattr(body, name):
                raise ApiError(400, f"{name} needs stream to be true", param=name)


def _params(
    body: SamplingFields, defaults: SamplingParams, salt: str, own: Mapping[str, Any]
) -> SamplingParams:
    asked = {name: value for name in _SAME_FIELDS if (value := getattr(body, name)) is not None} | {
        name: value for name, value in own.items() if value is not None
    }
    # Arguments belong to a policy: those of the default one mean nothing to another.
    for policy in ("remasking", "cache", "early_exit"):
        if policy in asked:
            asked.setdefault(f"{policy}_args", {})
    if salt:
        asked["cache_salt"] = f"{salt}/{asked.get('cache_salt', defaults.cache_salt)}"
    params = defaults.with_overrides(asked)
    if params.temperature > 0 and "seed" not in asked:
        params = params.with_overrides({"seed": secrets.randbits(63)})
    return params


def _prompt_list(body: CompletionBody) -> Sequence[str | list[int]]:
    prompt = body.prompt
    if isinstance(prompt, str):
        return [prompt]
    if all(isinstance(part, int) for part in prompt):
        return [prompt]  # type: ignore[list-item]  # token ids of one prompt; [] is refused later
    return prompt  # type: ignore[return-value]


def _prompt(
    prompt: str | list[int], body: CompletionBody, params: SamplingParams, max_model_len: int
) -> Prompt:
    is_text = isinstance(prompt, str)
    if body.template is not None:
        if body.suffix or body.gap is not None:
            raise RequestError("template cannot be used with suffix or gap; write them into it")
        _check_length(
            "template", [part for part in body.template if isinstance(part, int)], max_model_len
        )
        return {"prompt" if is_text else "prompt_token_ids": prompt, "template": body.template}
    if not body.suffix and body.gap is None:
        return {"prompt" if is_text else "prompt_token_ids": prompt}
    gap = params.max_tokens if body.gap is None else body.gap
    _check_length("gap", [max(gap)] if isinstance(gap, list) else [gap], max_model_len)
    return {
        "prefix" if is_text else "prefix_token_ids": prompt,
        "suffix": body.suffix or "",
        "gap": gap,
    }


def _check_length(name: str, counts: Sequence[int], max_model_len: int) -> None:
    if (total := sum(counts)) > max_model_len:
        raise RequestError(f"{name} asks for {total} tokens, the model allows {max_model_len}")
