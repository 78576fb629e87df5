"""A request with everything it holds while it runs."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch

from starr_engine._core import PageTable
from starr_engine.cache.base import CachePolicy, CacheView, RowRanges, StepPlan
from starr_engine.decoding.base import RemaskingPolicy, State
from starr_engine.decoding.exit.base import ExitRule
from starr_engine.decoding.logits import TokenRules
from starr_engine.engine.tracing import TraceRecorder
from starr_engine.request import Positions, Request

_NO_RULES: Final = TokenRules()


class RunningRequest:
    """Joins a request to its two policies, the state of one and the pages of the other.

    Args:
        request: As the user gave it.
        remasking: Built from the request's arguments.
        cache: Built from the request's arguments.
        device: Of the remasking policy's state.
        rules: What the request asks of its logits.
        exit_rule: Built from the request's arguments; None never exits early.
    """

    def __init__(
        self,
        request: Request,
        remasking: RemaskingPolicy,
        cache: CachePolicy,
        device: torch.device,
        rules: TokenRules = _NO_RULES,
        exit_rule: ExitRule | None = None,
    ) -> None:
        self.request = request
        self.remasking = remasking
        self.cache = cache
        self.exit_rule = exit_rule
        self.rules = rules
        self.pages: PageTable | None = None
        """Set at admission if the cache policy uses pages."""

        self.recorder: TraceRecorder | None = None
        """Set by the engine if the request wants its trace."""

        self._device = device
        self.state: State = {}
        self.open_block()

    def open_block(self) -> None:
        """Start the remasking policy's state anew; it never outlives a block."""
        length = len(self.request.canvas.active_block)
        self.state = self.remasking.init_state(1, length, self._device)

    def plan(self) -> StepPlan:
        """The rows of this request's next denoising step."""
        request, canvas = self.request, self.request.canvas
        return self.cache.plan(
            CacheView(
                num_rows=canvas.length,
                block_start=canvas.block_start,
                block_stop=canvas.block_stop,
                steps_in_block=request.steps_in_block,
                steps_since_refresh=request.steps_since_refresh,
            )
        )

    def score_positions(self) -> Positions:
        """[m] int32 positions whose logits the remasking policy needs."""
        canvas = self.request.canvas
        if self.remasking.scores_unmasked:
            # Fixed tokens are settled: nothing a policy could do to them.
            wanted = ~canvas.is_fixed[canvas.block_start : canvas.block_stop]
        else:
            wanted = canvas.active_block == canvas.mask_token_id
        return (np.flatnonzero(wanted) + canvas.block_start).astype(np.int32)

    def shadow_positions(self) -> Positions:
        """[s] int32 positions of the active block whose tokens are checked by shadow rows."""
        canvas = self.request.canvas
        if not self.remasking.needs_shadow:
            return np.empty(0, np.int32)
        # Fixed tokens stay whatever a check says; they would only use up what a step may revoke.
        fixed = canvas.is_fixed[canvas.block_start : canvas.block_stop]
        tokens = np.flatnonzero((canvas.active_block != canvas.mask_token_id) & ~fixed)
        return (tokens + canvas.block_start).astype(np.int32)

    def shadow_rows(self) -> RowRanges:
        """The active block if any of its tokens is checked, else nothing.

        Shadow rows attend to each other, so one takes all.
        """
        canvas = self.request.canvas
        has_any = len(self.shadow_positions()) > 0
        return ((canvas.block_start, canvas.block_stop),) if has_any else ()

    def release_pages(self) -> None:
        """Give all pages back; harmless when there are none."""
        if self.pages is not None:
            self.pages.release()
            self.pages = None
