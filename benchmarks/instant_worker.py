"""A worker whose rows cost nothing: what is left is what a job costs besides its engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starr_engine import EngineConfig, SamplingParams
from starr_engine.distributed.worker import EngineWorker
from starr_engine.offline.runner import BatchLLM
from starr_engine.outputs import FinishReason, RequestOutput


class InstantEngine:
    """Finishes every request in the step after it came."""

    def __init__(self) -> None:
        self.config = EngineConfig(model="instant", device="cpu")
        self._waiting: list[tuple[str, tuple[int, ...]]] = []

    def add_request(
        self, prompt_token_ids: Sequence[int], params: SamplingParams,
        request_id: str | None = None, **_: object,
    ) -> str:  # fmt: skip
        """Take a request."""
        assert request_id is not None
        self._waiting.append((request_id, tuple(prompt_token_ids)))
        return request_id

    def step(self) -> list[RequestOutput]:
        """The answers to all that wait."""
        waiting, self._waiting = self._waiting, []
        return [
            RequestOutput(
                request_id=name, prompt_token_ids=prompt, token_ids=prompt, text="x" * len(prompt),
                finish_reason=FinishReason.STOP, nfe=1, num_unmasked=len(prompt),
                computed_rows=len(prompt), cache_label="exact", latency_s=0.0,
            )
            for name, prompt in waiting
        ]  # fmt: skip

    def abort(self, request_id: str) -> None:
        """Nothing is ever running."""


class InstantLLM:
    """An engine that takes no time."""

    def __init__(self) -> None:
        self.engine: Any = InstantEngine()

    @property
    def tokenizer(self) -> Any:
        """Rows have ids."""
        raise AssertionError


class InstantWorker(EngineWorker):
    """A worker whose rows cost nothing."""

    def make_llm(self) -> BatchLLM:
        """See :class:`InstantEngine`."""
        return InstantLLM()
