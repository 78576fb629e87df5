"""A stand-in for the LLM: bytes as tokens, several requests at once, made-up answers."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence

from starr_engine.config import EngineConfig, Quantization
from starr_engine.errors import CapacityError, RequestError
from starr_engine.infilling import Template
from starr_engine.outputs import BlockOutput, FinishReason, RequestOutput
from starr_engine.params import SamplingParams
from starr_engine.tokenization import check_messages

MASK = 0
POISON = "POISON"
"""A running prompt with this word makes every step fail."""


class FakeTokenizer:
    """One token per UTF-8 byte; byte 0 is the mask."""

    def encode(self, text: str) -> list[int]:
        if not text:
            raise RequestError("the prompt is empty")
        try:
            ids = list(text.encode())
        except UnicodeEncodeError as error:
            raise RequestError(f"the prompt is not valid Unicode: {error}") from error
        if MASK in ids:
            raise RequestError("the prompt contains the mask token")
        return ids

    def encode_part(self, text: str) -> list[int]:
        return self.encode(text) if text else []

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        check_messages(messages)
        return self.encode("".join(f"<{m['role']}>{m['content']}" for m in messages))

    def decode(self, token_ids: Sequence[int]) -> str:
        return bytes(token_ids).decode("utf-8", "replace")


class FakeEngine:
    """Answers are a function of prompt and parameters; so is the number of steps they take."""

    def __init__(self, config: EngineConfig, step_s: float) -> None:
        self.config = config
        self.most_in_flight = 0
        self.aborted: list[str] = []
        self._step_s = step_s
        self._requests: dict[str, tuple[tuple[int, ...], SamplingParams, int]] = {}

    @property
    def has_unfinished(self) -> bool:
        return bool(self._requests)

    @property
    def num_running(self) -> int:
        return min(len(self._requests), self.config.max_num_requests)

    @property
    def num_waiting(self) -> int:
        return len(self._requests) - self.num_running

    def add_request(
        self,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        request_id: str | None = None,
        *,
        template: Template | None = None,
        given: Sequence[int] | None = None,
    ) -> str:
        limit = self.config.max_model_len or 1024
        if len(prompt_token_ids) + params.max_tokens > limit:
            raise RequestError(
                f"the prompt has {len(prompt_token_ids)} tokens and max_tokens is "
                f"{params.max_tokens}; the model allows {limit} together"
            )
        assert request_id is not None
        assert request_id not in self._requests
        rest = (MASK if token is None else token for token in template or ())
        self._requests[request_id] = ((*prompt_token_ids, *rest), params, 0)
        self.most_in_flight = max(self.most_in_flight, len(self._requests))
        return request_id

    def step(self) -> list[BlockOutput | RequestOutput]:
        time.sleep(self._step_s)
        finished: list[BlockOutput | RequestOutput] = []
        for request_id in list(self._requests)[: self.config.max_num_requests]:
            prompt, params, steps = self._requests[request_id]
            if POISON.encode() in bytes(prompt):
                raise CapacityError(f"no pages for {request_id}")
            digest = hashlib.sha256(repr((prompt, params.seed, params.max_tokens)).encode())
            steps += 1
            self._requests[request_id] = (prompt, params, steps)
            if steps > digest.digest()[0] % 7:
                del self._requests[request_id]
                text = digest.hexdigest()[:8]
                finished.append(make_output(request_id, prompt, text, steps))
        return finished

    def abort(self, request_id: str) -> RequestOutput | None:
        self.aborted.append(request_id)
        return None if self._requests.pop(request_id, None) is None else make_output(
            request_id, (), "", 1, FinishReason.ABORT
        )  # fmt: skip


def make_output(
    request_id: str,
    prompt: tuple[int, ...],
    text: str,
    nfe: int,
    reason: FinishReason = FinishReason.STOP,
) -> RequestOutput:
    return RequestOutput(
        request_id=request_id,
        prompt_token_ids=prompt,
        token_ids=tuple(text.encode()),
        text=text,
        finish_reason=reason,
        nfe=nfe,
        num_unmasked=12,
        computed_rows=nfe * len(prompt),
        cache_label="exact",
        latency_s=0.5,
    )


class FakeLLM:
    def __init__(
        self,
        *,
        batch_size: int = 4,
        step_s: float = 0.0,
        model: str = "fake",
        quantization: Quantization = "none",
    ) -> None:
        self.tokenizer = FakeTokenizer()
        config = EngineConfig(model=model, max_num_requests=batch_size, quantization=quantization)
        self.engine = FakeEngine(config, step_s)
