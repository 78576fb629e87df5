"""A stand-in for the LLM with policies in it: what a threshold costs and breaks is a formula.

Prompt ``[a, b, ...]`` has the difficulty ``a / 100``: a threshold at or above it gives the tokens
of one token per step, one below changes as many of the ten tokens as it is tenths too low.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from starr_engine.config import EngineConfig
from starr_engine.errors import RequestError
from starr_engine.outputs import FinishReason, RequestOutput
from starr_engine.params import SamplingParams

NUM_TOKENS = 10
FULL_NFE = 40


class FakeStudyEngine:
    """One step finishes the oldest request."""

    def __init__(self, config: EngineConfig, after_output: Callable[[int], None]) -> None:
        self.config = config
        self.num_run = 0
        self.most_waiting = 0
        self.aborted: list[str] = []
        self._after_output = after_output
        self._requests: dict[str, tuple[tuple[int, ...], SamplingParams]] = {}

    def add_request(
        self,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        request_id: str | None = None,
    ) -> str:
        if not prompt_token_ids:
            raise RequestError("the prompt is empty; give at least one token")
        assert request_id is not None and request_id not in self._requests
        self._requests[request_id] = (tuple(prompt_token_ids), params)
        self.most_waiting = max(self.most_waiting, len(self._requests))
        return request_id

    def step(self) -> list[RequestOutput]:
        request_id = next(iter(self._requests))
        prompt, params = self._requests[request_id]
        self._after_output(self.num_run)
        del self._requests[request_id]
        self.num_run += 1
        tokens, nfe = answer(prompt, params)
        return [
            RequestOutput(
                request_id=request_id,
                prompt_token_ids=prompt,
                token_ids=tokens,
                text="",
                finish_reason=FinishReason.LENGTH,
                nfe=nfe,
                num_unmasked=NUM_TOKENS,
                computed_rows=0,
                cache_label="exact",
                latency_s=0.0,
            )
        ]

    def abort(self, request_id: str) -> None:
        self.aborted.append(request_id)
        self._requests.pop(request_id)


def answer(prompt: tuple[int, ...], params: SamplingParams) -> tuple[tuple[int, ...], int]:
    """Tokens and forwards."""
    tokens = [prompt[-1]] * NUM_TOKENS
    if params.remasking == "low_confidence":
        return tuple(tokens), FULL_NFE
    threshold = float(params.remasking_args.get("threshold", 0.9))  # type: ignore[arg-type]
    missing = max(0.0, prompt[0] / 100 - threshold)
    for at in range(min(NUM_TOKENS, -int(-missing * 10 // 1))):
        tokens[at] += 1
    return tuple(tokens), 2 + int(20 * threshold)


class FakeStudyLLM:
    def __init__(
        self,
        *,
        batch_size: int = 4,
        model: str = "fake",
        after_output: Callable[[int], None] = lambda number: None,
    ) -> None:
        self.engine = FakeStudyEngine(
            EngineConfig(model=model, max_num_requests=batch_size), after_output
        )

    @property
    def tokenizer(self):
        raise RequestError("this model has no tokenizer")
