"""From what the engine gives back to the objects of OpenAI's interface."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Final, NotRequired

from typing_extensions import TypedDict

from starr_engine.outputs import (
    BlockOutput,
    FinishReason,
    ProvisionalOutput,
    RequestOutput,
    TokenLogprob,
)
from starr_engine.trace import trace_to_plain

TokenText = Callable[[int], str]
"""A token id to its text, with the space that leads it."""

_FINISH_REASONS: Final = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.ABORT: "abort",
    FinishReason.ERROR: "error",
}


class PromptDetails(TypedDict):
    """Of usage."""

    cached_tokens: int
    """Rows taken from pages that earlier requests had filled."""


class Usage(TypedDict):
    """What a request has cost."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    denoising_steps: int
    """Model forwards of all choices, those spent on choosing a gap's length included (NFE)."""

    tokens_per_forward: float
    """Unmasked tokens of all choices / their forwards (TPF)."""


class Choice(TypedDict):
    """One sample of one prompt, or a piece of it."""

    index: int
    text: NotRequired[str]
    message: NotRequired[dict[str, str]]
    delta: NotRequired[dict[str, str]]
    logprobs: dict[str, Any] | None
    finish_reason: str | None
    cache_label: NotRequired[str]
    """``exact``, or ``approximate: <why>``; with the finish reason."""

    block_index: NotRequired[int]
    """Of the block that a chunk holds."""

    denoising_steps: NotRequired[int]
    """Of this choice so far."""

    gap_length: NotRequired[int]
    """Of those tried, where there were several."""

    slots: NotRequired[list[str]]
    """Text of each gap of a template."""

    drift: NotRequired[dict[str, Any]]
    """What probes found, with a ``cache_probe_rate``."""

    trace: NotRequired[dict[str, Any]]


class Completion(TypedDict):
    """The answer of both endpoints, and each chunk of a stream."""

    id: str
    object: str
    created: int
    """Seconds since 1970."""

    model: str
    choices: list[Choice]
    usage: NotRequired[Usage | None]


def usage_of(outputs: Sequence[RequestOutput], num_choices_per_prompt: int) -> Usage:
    """The sum over all choices; a prompt counts once, however many samples it has.

    Args:
        outputs: All samples of all prompts, in order.
        num_choices_per_prompt: Samples of each prompt.
    """
    prompts = sum(len(each.prompt_token_ids) for each in outputs[::num_choices_per_prompt])
    completion = sum(len(each.token_ids) for each in outputs)
    forwards = sum(each.nfe for each in outputs)
    unmasked = sum(each.num_unmasked for each in outputs)
    return Usage(
        prompt_tokens=prompts,
        completion_tokens=completion,
        total_tokens=prompts + completion,
        prompt_tokens_details={"cached_tokens": sum(each.num_cached_tokens for each in outputs)},
        denoising_steps=sum(each.total_nfe for each in outputs),
        tokens_per_forward=unmasked / forwards if forwards else 0.0,
    )


class Shape:
    """The objects of one request.

    Args:
        request_id: Of the HTTP request.
        model: As it is called in the API.
        created: Seconds since 1970.
        is_chat: Which of the two endpoints.
        token_text: Spells tokens.
    """

    def __init__(
        self, request_id: str, model: str, created: int, *, is_chat: bool, token_text: TokenText
    ) -> None:
        self._request_id = request_id
        self._model = model
        self._created = created
        self._is_chat = is_chat
        self._token_text = token_text
        self._num_chars: dict[int, int] = {}

    def completion(self, outputs: Sequence[RequestOutput], usage: Usage) -> Completion:
        """The whole answer."""
        choices = []
        for index, output in enumerate(outputs):
            choice = Choice(index=index, logprobs=None, finish_reason=None)
            if self._is_chat:
                choice["message"] = {"role": "assistant", "content": output.text}
            else:
                choice["text"] = output.text
            choice["logprobs"] = self._logprobs(index, output.logprobs)
            choices.append(choice | _ending(output))
        return self._object(choices, is_chunk=False) | {"usage": usage}

    def opening(self, index: int) -> Completion:
        """The first chunk of a choice of a chat: who speaks."""
        delta = {"role": "assistant", "content": ""}
        choice = Choice(index=index, delta=delta, logprobs=None, finish_reason=None)
        return self._object([choice], is_chunk=True)

    def block(self, index: int, block: BlockOutput) -> Completion:
        """A committed block."""
        choice = self._piece(index, block.text) | {
            "logprobs": self._logprobs(index, block.logprobs),
            "block_index": block.block_index,
            "denoising_steps": block.num_forwards,
        }
        return self._object([choice], is_chunk=True)

    def ending(self, index: int, output: RequestOutput) -> Completion:
        """The last chunk of a choice: no text, but why it ended."""
        return self._object([self._piece(index, "") | _ending(output)], is_chunk=True)

    def usage(self, usage: Usage) -> Completion:
        """The last chunk of a stream with ``include_usage``."""
        return self._object([], is_chunk=True) | {"usage": usage}

    def provisional(self, index: int, block: ProvisionalOutput) -> dict[str, Any]:
        """The active block after a step, not final; null where a mask stands.

        It has an empty list of choices: clients that read every event as a chunk see one that adds
        nothing.
        """
        ids = block.token_ids
        return {
            "id": self._request_id,
            "object": "starr.provisional",
            "choices": [],
            "index": index,
            "block_index": block.block_index,
            "denoising_steps": block.num_forwards,
            "token_ids": list(ids),
            "tokens": [None if token is None else self._token_text(token) for token in ids],
        }

    def _piece(self, index: int, text: str) -> Choice:
        choice = Choice(index=index, logprobs=None, finish_reason=None)
        if self._is_chat:
            choice["delta"] = {"content": text} if text else {}
        else:
            choice["text"] = text
        return choice

    def _object(self, choices: list[Choice], *, is_chunk: bool) -> Completion:
        if self._is_chat:
            kind = "chat.completion.chunk" if is_chunk else "chat.completion"
        else:
            kind = "text_completion"
        return Completion(
            id=self._request_id,
            object=kind,
            created=self._created,
            model=self._model,
            choices=choices,
        )

    def _logprobs(
        self, index: int, logprobs: Sequence[TokenLogprob] | None
    ) -> dict[str, Any] | None:
        if logprobs is None:
            return None
        if self._is_chat:
            return {"content": [self._chat_logprob(token) for token in logprobs]}
        tokens = [self._token_text(token.token_id) for token in logprobs]
        offsets = []
        position = self._num_chars.get(index, 0)
        for text in tokens:
            offsets.append(position)
            position += len(text)
        self._num_chars[index] = position
        return {
            "tokens": tokens,
            "token_logprobs": [token.logprob for token in logprobs],
            "top_logprobs": [
                {self._token_text(other): logprob for other, logprob in token.top}
                for token in logprobs
            ],
            "text_offset": offsets,
            "denoising_steps": [token.step for token in logprobs],
        }

    def _chat_logprob(self, token: TokenLogprob) -> dict[str, Any]:
        return self._spelled(token.token_id, token.logprob) | {
            "top_logprobs": [self._spelled(other, logprob) for other, logprob in token.top],
            "denoising_step": token.step,
        }

    def _spelled(self, token_id: int, logprob: float) -> dict[str, Any]:
        text = self._token_text(token_id)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8", "replace"))}


def _ending(output: RequestOutput) -> Choice:
    """What is known of a choice when it has ended."""
    ending: dict[str, Any] = {
        "finish_reason": _FINISH_REASONS[output.finish_reason],
        "cache_label": output.cache_label,
        "denoising_steps": output.nfe,
    }
    if output.slots:
        ending["slots"] = list(output.slots)
    if output.gap_lengths_tried:
        ending["gap_length"] = len(output.token_ids)
    if output.drift is not None:
        ending["drift"] = asdict(output.drift)
    if output.trace is not None:
        ending["trace"] = trace_to_plain(output.trace)
    return ending  # type: ignore[return-value]
