"""Who takes part in this step, and with which rows."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from starr_engine.cache.base import StepPlan
from starr_engine.cache.rows import RowRanges, num_rows
from starr_engine.engine.canvas_cache import CanvasKey
from starr_engine.engine.paging import PageKeeper
from starr_engine.engine.running import RunningRequest
from starr_engine.request import Request, RequestStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledRequest:
    """One request's share of a step."""

    running: RunningRequest
    plan: StepPlan

    shadow: RowRanges
    """Rows that are computed a second time, as masks, for the remasking policy to check tokens."""

    canvas_key: CanvasKey | None = None
    """Of a first step that other requests may be spared."""

    @property
    def num_query_rows(self) -> int:
        """Rows of the forward, shadow rows and rows computed in part included."""
        return self.plan.num_query_rows + num_rows(self.shadow)

    def computed_rows(self, num_layers: int) -> int:
        """Query rows, a row computed in part as its share of the layers; the sum is rounded up."""
        in_part = num_rows(self.plan.partial) - self.plan.num_chosen
        return self.num_query_rows - in_part * (num_layers - 1) // num_layers


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedRequest:
    """A request that has no part in the step and no future: its cache policy failed."""

    running: RunningRequest
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Who takes part in a step, in order; iterates over ``entries``."""

    entries: tuple[ScheduledRequest, ...]
    refused: tuple[RefusedRequest, ...] = ()

    def __iter__(self) -> Iterator[ScheduledRequest]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


class Scheduler:
    """First come, first served, at the granularity of a denoising step.

    A request is admitted when one of ``max_num_requests`` places and its first pages are free; it
    leaves the step it finishes. Where the live rows grow block by block, so do its pages. When
    they run out, the request that was added last and can go on from its tokens alone gives up
    its pages and waits at the front of the queue: first come, first kept.

    Args:
        keeper: Of the pages.
        max_num_requests: Requests that run at once.
        max_num_batched_tokens: Most rows of one step. Requests beyond it are left out of the step
            and come first in the next.
    """

    def __init__(
        self, keeper: PageKeeper, *, max_num_requests: int, max_num_batched_tokens: int
    ) -> None:
        self._keeper = keeper
        self._max_num_requests = max_num_requests
        self._max_num_batched_tokens = max_num_batched_tokens
        self._waiting: deque[RunningRequest] = deque()
        self._running: list[RunningRequest] = []
        self._by_id: dict[str, RunningRequest] = {}
        self._arrivals = itertools.count()

    @property
    def num_waiting(self) -> int:
        """Requests that were not admitted yet, or gave up their pages."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Requests that hold a place."""
        return len(self._running)

    @property
    def unfinished(self) -> Iterable[RunningRequest]:
        """Running and waiting requests, in the order in which they came."""
        return self._by_id.values()

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._by_id

    def running(self, request_id: str) -> Request | None:
        """The request of this id if it holds a place."""
        found = self._by_id.get(request_id)
        is_running = found is not None and found.request.status is RequestStatus.RUNNING
        return found.request if found is not None and is_running else None

    def add(self, request: RunningRequest) -> None:
        """Put a request at the end of the queue."""
        self._by_id[request.request.request_id] = request
        request.arrival = next(self._arrivals)
        self._waiting.append(request)

    def schedule(self) -> Schedule:
        """Admit what fits, then take running requests until the row budget is spent."""
        self._keeper.canvases.drop_unconfirmed()
        if self._grow():
            self._admit()
        budget = self._max_num_batched_tokens
        chosen: list[ScheduledRequest] = []
        left_out: list[RunningRequest] = []
        refused: list[RefusedRequest] = []
        computing: set[CanvasKey] = set()
        canvases = self._keeper.canvases
        for running in self._running:
            if not self._keeper.has_room(running):
                continue  # until another request gives pages back
            try:
                plan = running.plan()
            except Exception as error:  # whatever a user's policy may raise
                reason = f"{type(running.cache).__name__} failed: {type(error).__name__}: {error}"
                refused.append(RefusedRequest(running=running, reason=reason))
                continue
            entry = ScheduledRequest(running=running, plan=plan, shadow=running.shadow_rows())
            key = canvases.key(running, plan)
            if key in computing:
                canvases.want(key)
                continue  # for one step, until its twin is through
            known = None if key is None else canvases.shortened(key, plan)
            if known is not None:
                entry = replace(entry, plan=known)
            if entry.num_query_rows > budget or left_out:
                left_out.append(running)
                continue
            budget -= entry.num_query_rows
            if key is not None and known is not None:
                canvases.restore(running, key)
            elif key is not None:
                computing.add(key)
                canvases.meet(key)
                entry = replace(entry, canvas_key=key)
            chosen.append(entry)
        if left_out:
            first = {id(running) for running in left_out}
            self._running = left_out + [r for r in self._running if id(r) not in first]
        return Schedule(entries=tuple(chosen), refused=tuple(refused))

    def remove(self, request_id: str) -> RunningRequest | None:
        """Take a request out, wherever it is, and free its pages; None if it is unknown."""
        running = self._by_id.pop(request_id, None)
        if running is None:
            return None
        queue = self._waiting if running.request.status is RequestStatus.WAITING else self._running
        queue.remove(running)
        running.release_pages()
        running.request.status = RequestStatus.FINISHED
        return running

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self._max_num_requests:
            # A page for each that will grow: else the newcomer would soon be turned out again.
            reserve = sum(self._keeper.may_grow(running) for running in self._running)
            if not self._keeper.try_admit(self._waiting[0], reserve):
                return
            self._waiting[0].request.status = RequestStatus.RUNNING
            self._running.append(self._waiting.popleft())

    def _grow(self) -> bool:
        """Pages for the rows that have become live, earliest request first; False if too few."""
        short = [running for running in self._running if not self._keeper.has_room(running)]
        had_enough = True
        for running in sorted(short, key=lambda entry: entry.arrival):
            while running.request.status is RequestStatus.RUNNING:
                if self._keeper.try_grow(running):
                    break
                had_enough = False
                if not self._preempt():
                    break
        return had_enough

    def _preempt(self) -> bool:
        """Take the pages of the request that came last; False if no request can lose them."""
        able = [entry for entry in self._running if entry.pages and entry.can_lose_pages]
        if not able:
            return False
        victim = max(able, key=lambda entry: entry.arrival)
        self._running.remove(victim)
        victim.release_pages()
        victim.request.lose_pages()
        victim.request.status = RequestStatus.WAITING
        self._waiting.appendleft(victim)
        return True
