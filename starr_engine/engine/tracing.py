"""Records what happens to one request; made only for requests that ask for it."""

from __future__ import annotations

import numpy as np

from starr_engine.cache.base import StepPlan
from starr_engine.outputs import FinishReason
from starr_engine.request import Request
from starr_engine.tokenization import Tokenizer
from starr_engine.trace import PositionTrace, Trace, TraceStep


class TraceRecorder:
    """Collects the steps of a request and makes its trace at the end.

    Args:
        request: Before its first step.
        model: As the engine was asked for it.
        cache_label: Of the request's cache policy.
        tokenizer: None leaves all texts of the trace empty.
    """

    def __init__(
        self, request: Request, model: str, cache_label: str, tokenizer: Tokenizer | None
    ) -> None:
        self._request = request
        self._model = model
        self._cache_label = cache_label
        self._tokenizer = tokenizer
        self._initial_ids = request.canvas.token_ids.copy()
        self._steps: list[TraceStep] = []

    def record(
        self, plan: StepPlan, num_rows: int, positions: PositionTrace, time_s: float
    ) -> None:
        """Add a step; to be called before the canvas changes.

        Args:
            plan: What kind of step it was.
            num_rows: What was computed, shadow rows included.
            positions: What was decided.
            time_s: Seconds the batch took up to here.
        """
        canvas = self._request.canvas
        self._steps.append(
            TraceStep(
                kind=plan.kind.value,
                block_index=canvas.block_index,
                block_start=canvas.block_start,
                num_live=canvas.num_live,
                num_rows=num_rows,
                time_s=time_s,
                positions=positions,
            )
        )

    def finish(self, *, text: str, num_visible_ids: int, finish_reason: FinishReason) -> Trace:
        """The trace, with what the output shows."""
        request, params = self._request, self._request.params
        num_prompt_tokens = request.canvas.prompt_len
        return Trace(
            model=self._model,
            remasking=params.remasking,
            remasking_args=dict(params.remasking_args),
            cache=params.cache,
            cache_args=dict(params.cache_args),
            cache_label=self._cache_label,
            temperature=params.temperature,
            seed=params.seed,
            prompt_text=(
                ""
                if self._tokenizer is None
                else self._tokenizer.decode(self._initial_ids[:num_prompt_tokens].tolist())
            ),
            text=text,
            finish_reason=str(finish_reason),
            mask_token_id=request.canvas.mask_token_id,
            num_prompt_tokens=num_prompt_tokens,
            num_visible_ids=num_visible_ids,
            initial_ids=self._initial_ids,
            final_ids=request.canvas.token_ids.copy(),
            token_texts=self._token_texts(),
            steps=tuple(self._steps),
        )

    def _token_texts(self) -> dict[int, str]:
        if self._tokenizer is None:
            return {}
        seen = [self._initial_ids, *(step.positions.candidates for step in self._steps)]
        ids = np.unique(np.concatenate(seen)).tolist()
        return {token: self._tokenizer.token_text(token) for token in ids}
