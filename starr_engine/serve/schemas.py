"""The bodies that the API takes, as its OpenAPI document shows them.

Kinds are checked here; ranges are ``SamplingParams``'s to check, which says what it wants.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

ArgValues = dict[str, bool | int | float | str | None]
"""Arguments of a policy."""

TokenId = Annotated[int, Field(ge=0)]
TokenIds = Annotated[list[TokenId], Field(max_length=1 << 17)]
StopText = Annotated[str, Field(min_length=1, max_length=1000)]
Texts = Annotated[list[StopText], Field(max_length=64)]

_MEANS_NOTHING: Final[dict[str, tuple[object, ...]]] = {
    "best_of": (1,),
    "echo": (False,),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "store": (False,),
    "logprobs": (False,),
    "use_beam_search": (False,),
}
"""Values of fields, known or not, that ask for what happens anyway."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(_Strict):
    """Of a streamed response."""

    include_usage: bool = False
    """Whether the last chunk has the usage, with no choices."""


class SamplingFields(_Strict):
    """Fields that completions and chats share; null is the same as absent."""

    model: str | None = Field(None, description="absent takes the one that is served")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, description="accepted and not used")
    max_tokens: int | None = None
    n: int | None = None
    seed: int | None = Field(None, description="absent draws one at temperatures above 0")
    stop: StopText | Annotated[list[StopText], Field(max_length=16)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=1024)] | None = None
    # As in vLLM's interface.
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    bad_words: Texts | None = None
    allowed_token_ids: TokenIds | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=64)] | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    cache_salt: str | None = Field(None, max_length=256)
    priority: int | None = None
    # Of diffusion models.
    block_length: int | None = Field(None, description="positions denoised together")
    remasking: str | None = Field(None, description="remasking policy; GET /v1/models lists them")
    remasking_args: ArgValues | None = None
    cache: str | None = Field(None, description="cache policy; GET /v1/models lists them")
    cache_args: ArgValues | None = None
    cache_probe_rate: float | None = None
    early_exit: str | None = None
    early_exit_args: ArgValues | None = None
    suppress_eos: bool | None = None
    eos_last: bool | None = None
    provisional: bool | None = Field(
        None, description="with stream: an event `provisional` after every step"
    )
    trace: bool | None = Field(None, description="every step in the choice's `trace`")

    @model_validator(mode="before")
    @classmethod
    def _drop_what_means_nothing(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        return {
            name: value
            for name, value in body.items()
            if value is not None and not _means_nothing(name, value)
        }


class CompletionBody(SamplingFields):
    """``POST /v1/completions``."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=1024)]
        | TokenIds
        | Annotated[list[TokenIds], Field(max_length=1024)]
    ) = Field(description="a text, its token ids, or a list of either")
    suffix: str | None = Field(None, description="what stands behind the text to generate")
    gap: int | Annotated[list[int], Field(min_length=2, max_length=2)] | None = Field(
        None,
        description="tokens between prompt and suffix, or the lowest and highest number to try; "
        "absent is max_tokens",
    )  # fmt: skip
    template: Annotated[list[str | int | TokenIds], Field(min_length=1, max_length=4096)] | None = (
        Field(None, description="behind the prompt: texts are fixed, numbers are tokens to fill")
    )
    logprobs: int | None = Field(None, description="alternatives for each token")


class TextPart(_Strict):
    """A part of a message."""

    type: Literal["text"]
    text: str


class ChatMessage(_Strict):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    """``developer`` is the same as ``system``."""

    content: str | list[TextPart]


class ChatBody(SamplingFields):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=4096)]
    max_completion_tokens: int | None = Field(None, description="the same as max_tokens")
    logprobs: bool | None = None
    top_logprobs: int | None = None


def _means_nothing(name: str, value: object) -> bool:
    # Not `in`: True equals 1, and only the same kind means the same.
    return any(
        type(value) is type(nothing) and value == nothing
        for nothing in _MEANS_NOTHING.get(name, ())
    )
