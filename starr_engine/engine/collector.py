"""Committed blocks to what the user receives."""

from __future__ import annotations

import time
from collections.abc import Sequence

from starr_engine.engine.progress import Change, CommittedBlock, FailedRequest
from starr_engine.engine.running import RunningRequest
from starr_engine.engine.stats import StatsKeeper
from starr_engine.engine.stopping import Visible
from starr_engine.outputs import BlockOutput, FinishReason, RequestOutput, TokenLogprob
from starr_engine.request import Request


class OutputCollector:
    """Turns progress into outputs; knows how much of each text has been handed out.

    Args:
        stats: Told of every request that ends.
    """

    def __init__(self, stats: StatsKeeper) -> None:
        self._stats = stats
        self._sent_chars: dict[str, int] = {}
        self._sent_ids: dict[str, int] = {}

    def collect(self, changes: Sequence[Change]) -> list[BlockOutput | RequestOutput]:
        """A ``BlockOutput`` per committed block, and a ``RequestOutput`` for what ended."""
        outputs: list[BlockOutput | RequestOutput] = []
        for block in changes:
            reason = FinishReason.ERROR
            error = None
            if isinstance(block, FailedRequest):
                error = block.reason
            else:
                outputs.append(self._block(block))
                if block.visible.finish_reason is None:
                    continue
                reason = block.visible.finish_reason
            outputs.append(
                self.end(block.running, block.visible, reason, block.time_s, error=error)
            )
        return outputs

    def end(
        self,
        running: RunningRequest,
        visible: Visible,
        reason: FinishReason,
        time_s: float | None = None,
        *,
        error: str | None = None,
    ) -> RequestOutput:
        """The result of a request that ends now, or ended at ``time_s``; forgets it."""
        self._sent_chars.pop(running.request.request_id, None)
        self._sent_ids.pop(running.request.request_id, None)
        self._stats.count_end(running, reason)
        return _request_output(running, visible, reason, time_s, error)

    def _block(self, block: CommittedBlock) -> BlockOutput:
        request, visible = block.running.request, block.visible
        sent_ids = self._sent_ids.get(request.request_id, 0)
        sent_chars = self._sent_chars.get(request.request_id, 0)
        self._sent_ids[request.request_id] = max(sent_ids, visible.num_sure_ids)
        self._sent_chars[request.request_id] = max(sent_chars, visible.num_sure_chars)
        return BlockOutput(
            request_id=request.request_id,
            block_index=block.block_index,
            token_ids=tuple(visible.token_ids[sent_ids : visible.num_sure_ids].tolist()),
            text=visible.text[sent_chars : visible.num_sure_chars],
            num_forwards=request.num_forwards,
            logprobs=_logprobs(request, sent_ids, visible.num_sure_ids),
        )


def _request_output(
    running: RunningRequest,
    visible: Visible,
    reason: FinishReason,
    time_s: float | None,
    error: str | None,
) -> RequestOutput:
    request = running.request
    return RequestOutput(
        request_id=request.request_id,
        prompt_token_ids=tuple(request.canvas.token_ids[: request.canvas.prompt_len].tolist()),
        token_ids=tuple(visible.token_ids.tolist()),
        text=visible.text,
        finish_reason=reason,
        nfe=request.num_forwards,
        num_unmasked=request.num_unmasked,
        computed_rows=request.computed_rows,
        cache_label=running.cache_label,
        num_edited=request.num_edited,
        num_refreshes=request.num_refreshes,
        num_cached_tokens=request.num_cached_tokens,
        num_preemptions=request.num_preemptions,
        latency_s=(time.perf_counter() if time_s is None else time_s) - request.arrival_s,
        drift=None if running.probes is None else running.probes.report(),
        error=error,
        mean_log_confidence=request.mean_log_confidence,
        slots=visible.slots,
        logprobs=_logprobs(request, 0, len(visible.token_ids)),
        trace=(
            None
            if running.recorder is None
            else running.recorder.finish(
                text=visible.text,
                num_visible_ids=len(visible.token_ids),
                finish_reason=reason,
            )
        ),
    )


def _logprobs(request: Request, first: int, last: int) -> tuple[TokenLogprob, ...] | None:
    """Of the output's tokens from ``first`` up to ``last``."""
    if request.params.logprobs is None:
        return None
    start = request.canvas.prompt_len
    places = range(start + first, start + last)
    # The fixed tokens of a template were not generated.
    return tuple(request.logprobs[place] for place in places if place in request.logprobs)
