"""A request with everything it holds while it runs."""

from __future__ import annotations

import numpy as np
import torch

from starr_engine._core import PageTable
from starr_engine.cache.base import CachePolicy, CacheView, StepPlan
from starr_engine.decoding.base import RemaskingPolicy, State
from starr_engine.engine.tracing import TraceRecorder
from starr_engine.request import Positions, Request


class RunningRequest:
    """Joins a request to its two policies, the state of one and the pages of the other.

    Args:
        request: As the user gave it.
        remasking: Built from the request's arguments.
        cache: Built from the request's arguments.
        device: Of the remasking policy's state.
    """

    def __init__(
        self,
        request: Request,
        remasking: RemaskingPolicy,
        cache: CachePolicy,
        device: torch.device,
    ) -> None:
        self.request = request
        self.remasking = remasking
        self.cache = cache
        self.pages: PageTable | None = None
        """Set at admission if the cache policy uses pages."""

        self.recorder: TraceRecorder | None = None
        """Set by the engine if the request wants its trace."""

        self._device = device
        self.state: State = {}
        self.open_block()

    def open_block(self) -> None:
        """Start the remasking policy's state anew; it never outlives a block."""
        length = self.request.params.block_length
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
            return np.arange(canvas.block_start, canvas.block_stop, dtype=np.int32)
        masks = np.flatnonzero(canvas.active_block == canvas.mask_token_id)
        return (masks + canvas.block_start).astype(np.int32)

    def release_pages(self) -> None:
        """Give all pages back; harmless when there are none."""
        if self.pages is not None:
            self.pages.release()
            self.pages = None
