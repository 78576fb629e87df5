"""Who takes part in this step, and with which rows."""

from __future__ import annotations

import itertools
from bisect import insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from starr_engine.cache.base import StepKind, StepPlan
from starr_engine.cache.rows import RowRanges, num_rows
from starr_engine.decoding.carrying import CarriedRow
from starr_engine.engine.canvas_cache import CanvasKey
from starr_engine.engine.paging import PageKeeper
from starr_engine.engine.running import RunningRequest
from starr_engine.engine.selection import Candidate, paced_refresh_rows, select
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

    block_index: int = 0
    """The block that is active."""

    carried: CarriedRow | None = None
    """What the request's last step leaves on the device, if the host does not know it yet."""

    @property
    def is_wanted(self) -> bool:
        """Whether the request still runs, and in this block."""
        request = self.running.request
        is_running = request.status is RequestStatus.RUNNING
        return is_running and request.canvas.block_index == self.block_index

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
    """Decides at the granularity of a denoising step; first come, first served, by priority.

    A request is admitted when one of ``max_num_requests`` places and its first pages are free; it
    leaves the step it finishes. Where the live rows grow block by block, so do its pages. When
    they run out, the request that was added last, of the lowest priority, and can go on from its
    tokens alone gives up its pages and waits in front of those that came later. So it does for a
    request of higher priority that finds no place or no pages. Who takes part in a step, see
    :func:`select`.

    Args:
        keeper: Of the pages.
        max_num_requests: Requests that run at once.
        max_num_batched_tokens: Most rows of one step.
        ridge_rows: Rows up to which a step takes about the same time: refreshes fill a step up to
            there and are spread over steps beyond. 0 lets them coincide.
    """

    def __init__(
        self,
        keeper: PageKeeper,
        *,
        max_num_requests: int,
        max_num_batched_tokens: int,
        ridge_rows: int = 0,
    ) -> None:
        self._keeper = keeper
        self._max_num_requests = max_num_requests
        self._max_num_batched_tokens = max_num_batched_tokens
        self._ridge_rows = ridge_rows
        self._waiting: list[RunningRequest] = []
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
        """Put a request into the queue, behind all of its priority."""
        self._by_id[request.request.request_id] = request
        request.arrival = next(self._arrivals)
        self._queue(request)

    def schedule(self) -> Schedule:
        """Admit what fits, and choose among the running requests within the row budget."""
        self._keeper.canvases.drop_unconfirmed()
        if self._grow():
            self._admit()
        entries, refused = self._proposals()
        candidates = [_candidate(entry) for entry in entries]
        chosen = select(
            candidates,
            max_rows=self._max_num_batched_tokens,
            max_refresh_rows=paced_refresh_rows(candidates, self._ridge_rows)
            if self._ridge_rows
            else None,
        )
        for running in self._running:
            running.num_left_out += 1
        for index in chosen:
            entries[index].running.num_left_out = 0
        return Schedule(
            entries=tuple(self._begin(entries[index]) for index in chosen), refused=tuple(refused)
        )

    def _proposals(self) -> tuple[list[ScheduledRequest], list[RefusedRequest]]:
        """What each running request would do in this step, and who cannot go on."""
        entries: list[ScheduledRequest] = []
        refused: list[RefusedRequest] = []
        computing: set[CanvasKey] = set()
        canvases = self._keeper.canvases
        for running in self._running:
            if not self._keeper.has_room(running):
                continue  # until another request gives pages back
            if running.ahead is not None:
                if running.ahead.plan is not None:
                    entries.append(_entry(running, running.ahead.plan))
                continue
            try:
                plan = running.plan()
            except Exception as error:  # whatever a user's policy may raise
                reason = f"{type(running.cache).__name__} failed: {type(error).__name__}: {error}"
                refused.append(RefusedRequest(running=running, reason=reason))
                continue
            key = canvases.key(running, plan)
            if key is not None:
                if key in computing:
                    canvases.want(key)
                    continue  # until its twin is through
                known = canvases.shortened(key, plan)
                if known is None:
                    computing.add(key)
                plan = known or plan
            entries.append(_entry(running, plan, key))
        return entries, refused

    def _begin(self, entry: ScheduledRequest) -> ScheduledRequest:
        """Copy the pages of a canvas that is known, or note that this one is being computed."""
        key, canvases = entry.canvas_key, self._keeper.canvases
        if key is None:
            return entry
        if key in canvases:
            canvases.restore(entry.running, key)
            return replace(entry, canvas_key=None)
        canvases.meet(key)
        return entry

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

    def _queue(self, running: RunningRequest) -> None:
        running.request.status = RequestStatus.WAITING
        insort(self._waiting, running, key=_rank)

    def _admit(self) -> None:
        while self._waiting:
            first = self._waiting[0]
            # A page for each that will grow: else the newcomer would soon be turned out again.
            reserve = sum(self._keeper.may_grow(running) for running in self._running)
            has_place = len(self._running) < self._max_num_requests
            if has_place and self._keeper.try_admit(first, reserve):
                first.request.status = RequestStatus.RUNNING
                self._running.append(self._waiting.pop(0))
            elif not self._make_way(first, needs_pages=has_place):
                return

    def _make_way(self, newcomer: RunningRequest, *, needs_pages: bool) -> bool:
        """Turn out a request of lower priority; False if that would not let the newcomer in."""
        lower = [
            running
            for running in self._running
            if running.request.params.priority > newcomer.request.params.priority
            and running.can_lose_pages
        ]
        if needs_pages:
            lower = [running for running in lower if running.pages]
            held = sum(len(running.pages.pages) for running in lower if running.pages)
            if not self._keeper.could_admit(newcomer, held):
                return False
        if not lower:
            return False
        self._turn_out(max(lower, key=_rank))
        return True

    def _grow(self) -> bool:
        """Pages for the rows that have become live, most urgent first; False if too few."""
        short = [running for running in self._running if not self._keeper.has_room(running)]
        had_enough = True
        for running in sorted(short, key=_rank):
            while running.request.status is RequestStatus.RUNNING:
                if self._keeper.try_grow(running):
                    break
                had_enough = False
                able = [each for each in self._running if each.pages and each.can_lose_pages]
                if not able:
                    break
                self._turn_out(max(able, key=_rank))
        return had_enough

    def _turn_out(self, victim: RunningRequest) -> None:
        """Take a running request's place and pages; it goes on later, from its tokens."""
        self._running.remove(victim)
        victim.release_pages()
        victim.request.lose_pages()
        self._queue(victim)


def _entry(
    running: RunningRequest, plan: StepPlan, key: CanvasKey | None = None
) -> ScheduledRequest:
    return ScheduledRequest(
        running=running,
        plan=plan,
        shadow=running.shadow_rows(),
        canvas_key=key,
        block_index=running.request.canvas.block_index,
        carried=None if running.ahead is None else running.ahead.carried,
    )


def _rank(running: RunningRequest) -> tuple[int, int]:
    """Who comes first: by priority, then by arrival."""
    return running.request.params.priority, running.arrival


def _candidate(entry: ScheduledRequest) -> Candidate:
    running, request = entry.running, entry.running.request
    is_refresh = entry.plan.kind in (StepKind.PREFILL, StepKind.REFRESH)
    expected = entry.num_query_rows if is_refresh else 0
    return Candidate(
        num_rows=entry.num_query_rows,
        is_refresh=is_refresh,
        refresh_rate=request.refresh_rows / request.num_forwards
        if request.num_forwards
        else expected,
        priority=request.params.priority,
        waited=running.num_left_out,
        arrival=running.arrival,
    )
