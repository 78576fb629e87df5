"""Who takes part in this step, and with which rows."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from starr_engine._core import PagePool, PageTable
from starr_engine.cache.base import RowRanges, StepPlan
from starr_engine.engine.running import RunningRequest
from starr_engine.request import RequestStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledRequest:
    """One request's share of a step."""

    running: RunningRequest
    plan: StepPlan

    shadow: RowRanges
    """Rows that are computed a second time, as masks, for the remasking policy to check tokens."""

    @property
    def num_query_rows(self) -> int:
        """Rows computed, shadow rows included."""
        return self.plan.num_query_rows + sum(stop - start for start, stop in self.shadow)


Schedule = tuple[ScheduledRequest, ...]


class Scheduler:
    """First come, first served, at the granularity of a denoising step.

    A request is admitted when one of ``max_num_requests`` places and all pages of its canvas are
    free; it leaves the step it finishes. Pages are taken whole at admission, so a running request
    never runs out of them.

    Args:
        pool: Where pages come from.
        max_num_requests: Requests that run at once.
        max_num_batched_tokens: Most rows of one step. Requests beyond it are left out of the step
            and come first in the next.
    """

    def __init__(
        self, pool: PagePool, *, max_num_requests: int, max_num_batched_tokens: int
    ) -> None:
        self._pool = pool
        self._max_num_requests = max_num_requests
        self._max_num_batched_tokens = max_num_batched_tokens
        self._waiting: deque[RunningRequest] = deque()
        self._running: list[RunningRequest] = []
        self._by_id: dict[str, RunningRequest] = {}

    @property
    def num_waiting(self) -> int:
        """Requests that were not admitted yet."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Requests that hold a place."""
        return len(self._running)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._by_id

    def add(self, request: RunningRequest) -> None:
        """Put a request at the end of the queue."""
        self._by_id[request.request.request_id] = request
        self._waiting.append(request)

    def schedule(self) -> Schedule:
        """Admit what fits, then take running requests until the row budget is spent."""
        self._admit()
        budget = self._max_num_batched_tokens
        chosen: list[ScheduledRequest] = []
        left_out: list[RunningRequest] = []
        for running in self._running:
            entry = ScheduledRequest(
                running=running, plan=running.plan(), shadow=running.shadow_rows()
            )
            if entry.num_query_rows <= budget and not left_out:
                budget -= entry.num_query_rows
                chosen.append(entry)
            else:
                left_out.append(running)
        if left_out:
            self._running = left_out + [scheduled.running for scheduled in chosen]
        return tuple(chosen)

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
            candidate = self._waiting[0]
            if candidate.cache.uses_pages:
                pages = PageTable.try_create(self._pool, candidate.request.canvas.length)
                if pages is None:
                    return
                candidate.pages = pages
            candidate.request.status = RequestStatus.RUNNING
            self._running.append(self._waiting.popleft())
