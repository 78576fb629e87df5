"""A request with everything it holds while it runs."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from starr_engine._core import PageTable
from starr_engine.cache.base import CachePolicy, StepPlan
from starr_engine.cache.rows import RowRanges, as_ranges
from starr_engine.decoding.base import RemaskingPolicy
from starr_engine.decoding.carrying import CarriedRow
from starr_engine.decoding.exit.base import ExitRule
from starr_engine.decoding.logits import TokenRules
from starr_engine.decoding.stacking import RowState
from starr_engine.engine.probing import ProbeTally, is_probed
from starr_engine.engine.tracing import TraceRecorder
from starr_engine.request import Positions, Request

_NO_RULES: Final = TokenRules()
_NO_POSITIONS: Final = np.empty(0, np.int32)


class RequestView:
    """What a cache policy sees of a request, read off when it is asked for; a ``CacheView``."""

    def __init__(self, running: RunningRequest) -> None:
        self._running = running
        self._request = running.request
        self._canvas = running.request.canvas
        self._pages = running.pages

    @property
    def num_rows(self) -> int:
        """See ``CacheView``; so for all others."""
        return self._canvas.num_live

    @property
    def block_start(self) -> int:
        """First row of the active block."""
        return self._canvas.block_start

    @property
    def block_stop(self) -> int:
        """First row behind it."""
        return self._canvas.block_stop

    @property
    def prompt_len(self) -> int:
        """Rows in front of the first mask."""
        return self._canvas.prompt_len

    @property
    def mask_block(self) -> int | None:
        """Block of the attention mask."""
        return self._canvas.mask_block

    @property
    def logits_shift(self) -> int:
        """How far in front of a position its logits come from."""
        return self._canvas.logits_shift

    @property
    def num_steps(self) -> int:
        """Denoising steps done."""
        return self._request.num_forwards

    @property
    def steps_in_block(self) -> int:
        """Denoising steps done in the active block."""
        return self._request.steps_in_block

    @property
    def steps_since_refresh(self) -> int:
        """Denoising steps since the last refresh, that one included."""
        return self._request.steps_since_refresh

    @property
    def drift_since_refresh(self) -> float:
        """Sum of the drift signal since the last refresh."""
        return self._request.drift_since_refresh

    @property
    def num_clean(self) -> int:
        """Rows in front of the first uncached or dirty one."""
        return 0 if self._pages is None else self._pages.num_clean

    @property
    def cached(self) -> RowRanges:
        """Rows that have a key and value."""
        return () if self._pages is None else tuple(self._pages.cached_ranges())

    @property
    def dirty(self) -> RowRanges:
        """Rows whose token is newer than their key and value."""
        return () if self._pages is None else tuple(self._pages.dirty_ranges())

    @property
    def masked(self) -> RowRanges:
        """Live rows that hold a mask."""
        canvas = self._canvas
        ids = canvas.token_ids[: canvas.num_live]
        return as_ranges(np.flatnonzero(ids == canvas.mask_token_id))

    @property
    def first_scored(self) -> int:
        """First of the rows whose logits the remasking policy needs."""
        rows = self._running.score_rows()
        return int(rows[0]) if len(rows) else self._canvas.block_stop

    @property
    def scored(self) -> RowRanges:
        """Rows whose logits the remasking policy needs."""
        return as_ranges(self._running.score_rows())


@dataclass(frozen=True, slots=True)
class Ahead:
    """A request's part in a step that is launched before the last one is known; see ``ahead``."""

    plan: StepPlan | None
    """None: it sits that step out."""

    carried: CarriedRow
    """What the last one leaves on the device."""


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
        self.soft: torch.Tensor | None = None
        """[block length, hidden size] what a self-conditioned model is told of the active block at
        its next step; None before the first. Set by the executor."""

        self.pages: PageTable | None = None
        """Set at admission if the cache policy uses pages."""

        self.arrival = 0
        """Counts requests in the order in which the scheduler got them."""

        self.num_left_out = 0
        """Steps in a row in which it ran and had no part."""

        self.num_sealed = 0
        """Pages at the front of ``pages`` that other requests may use."""

        self.probes = ProbeTally() if request.params.cache_probe_rate else None
        """Fed by the executor if the request wants its steps probed."""

        self.recorder: TraceRecorder | None = None
        """Set by the engine if the request wants its trace."""

        self.goes_ahead = False
        """Whether its steps may be launched before the last one is known; set by the engine."""

        self.ahead: Ahead | None = None
        """Set while such a step is scheduled and laid out."""

        self._device = device
        self._scored_for_step = -1
        self._scored_in_step = (_NO_POSITIONS, _NO_POSITIONS)
        self.state: RowState = {}
        self.open_block()

    def open_block(self) -> None:
        """Start the remasking policy's state anew; it never outlives a block."""
        self.soft = None
        length = len(self.request.canvas.active_block)
        self.state = self.remasking.init_state(1, length, self._device)

    def plan(self) -> StepPlan:
        """The rows of this request's next denoising step."""
        return self.cache.plan(RequestView(self))

    def score_positions(self) -> Positions:
        """[m] int32 positions whose logits the remasking policy needs at the next step."""
        return self._scored()[0]

    def score_rows(self) -> Positions:
        """[m] int32 rows whose logits those are."""
        return self._scored()[1]

    def _scored(self) -> tuple[Positions, Positions]:
        # The plan, the scheduler and the batch all ask, once a step; only a step changes it.
        step = self.request.num_forwards
        if self._scored_for_step != step:
            canvas = self.request.canvas
            if self.remasking.scores_unmasked:
                # Fixed tokens are settled: nothing a policy could do to them.
                wanted = ~canvas.is_fixed[canvas.block_start : canvas.block_stop]
            else:
                wanted = canvas.active_block == canvas.mask_token_id
            positions = (wanted.nonzero()[0] + canvas.block_start).astype(np.int32)
            self._scored_in_step = positions, canvas.sources(positions)
            self._scored_for_step = step
        return self._scored_in_step

    def shadow_positions(self) -> Positions:
        """[s] int32 positions of the active block whose tokens are checked by shadow rows."""
        canvas = self.request.canvas
        if not self.remasking.needs_shadow:
            return _NO_POSITIONS
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

    @property
    def is_probed(self) -> bool:
        """Whether its next step is computed a second time without any reuse."""
        request = self.request
        if self.probes is None:
            return False
        rate, seed = request.params.cache_probe_rate, request.params.seed
        assert rate is not None
        prompt = zlib.crc32(request.canvas.token_ids[: request.canvas.prompt_len].tobytes())
        return is_probed(rate, seed, request.num_forwards, prompt)

    @property
    def cache_label(self) -> str:
        """Whether what it reuses is exact under the model's own attention."""
        return self.cache.label(self.request.canvas.mask_block)

    def release_pages(self) -> None:
        """Give all pages back; harmless when there are none."""
        if self.pages is not None:
            self.pages.release()
            self.pages = None
        self.num_sealed = 0

    @property
    def can_lose_pages(self) -> bool:
        """Whether it can go on from its tokens alone, and get what it would have got.

        So at a block's start, if the policy computes everything anew there; and at any time if
        what it would compute anew is what the pages hold. Never while a step of it runs.
        """
        return self.ahead is None and (
            self.cache.shares_prefix or (self.cache.resumable and self.request.steps_in_block == 0)
        )
