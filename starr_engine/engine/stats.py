"""What an engine has done since it was made, and what it holds now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from starr_engine._core import PagePool
from starr_engine.engine.paging import PageKeeper
from starr_engine.engine.probing import ProbeTally
from starr_engine.engine.running import RunningRequest
from starr_engine.engine.scheduler import Scheduler
from starr_engine.outputs import CacheDrift, FinishReason


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """Counts since the engine was made, unfinished requests included, and the state of now."""

    num_finished: int
    """Requests that ended by themselves, with ``stop`` or ``length``."""

    num_failed: int
    num_aborted: int
    num_running: int
    num_waiting: int
    num_preemptions: int
    """How often a request gave up its pages to an earlier one."""

    num_steps: int
    """Forwards of the model over all scheduled requests; those of probes are in ``drift``."""

    num_steps_ahead: int
    """Of these, launched before the host knew the step in front of them."""

    num_lost_rows: int
    """Rows computed for blocks that were done by then, or for requests that had gone; they are in
    none of the other counts."""

    request_forwards: int
    """Sum of the requests' NFE: what ``num_steps`` would be without batching."""

    num_refreshes: int
    """Of the request forwards, those that computed all live rows to reuse them."""

    computed_rows: int
    num_unmasked: int
    """Masks that became tokens."""

    num_pages: int
    """Pages that requests can have, all together."""

    num_free_pages: int
    """Those that a request could be given now; what they hold may still be found."""

    num_indexed_pages: int
    """Those whose content another request can take over, in use or free."""

    num_evicted_pages: int
    """Pages whose content was given up for other content."""

    prefix_hits: int
    """Whole pages of final tokens that an admitted request found."""

    prefix_misses: int
    """Whole pages that it looked for in vain."""

    canvas_hits: int
    """Requests that were spared their first step's context, see ``EngineConfig.canvas_cache``."""

    canvas_misses: int
    """Requests whose first step was looked for in vain."""

    drift: CacheDrift
    """What the probes of all requests have found; ``probe_forwards`` counts requests, too."""

    @property
    def prefix_hit_rate(self) -> float | None:
        """Share of the pages looked for that were found; None before the first look."""
        looked_for = self.prefix_hits + self.prefix_misses
        return self.prefix_hits / looked_for if looked_for else None

    @classmethod
    def total(cls, parts: Sequence[EngineStats]) -> EngineStats:
        """Of several engines, added up; of none, all 0."""
        names = [field.name for field in fields(cls) if field.name != "drift"]
        counts = {name: sum(getattr(part, name) for part in parts) for name in names}
        return cls(**counts, drift=CacheDrift.total([part.drift for part in parts]))


class StatsKeeper:
    """Adds up requests as they end; a step costs nothing but its own count."""

    def __init__(self) -> None:
        self._num_steps = 0
        self._num_steps_ahead = 0
        self._num_lost_rows = 0
        self._num_failed = 0
        self._num_aborted = 0
        self._num_finished = 0
        self._ended = _Totals()

    def count_step(self, *, is_ahead: bool = False) -> None:
        """A forward was made."""
        self._num_steps += 1
        self._num_steps_ahead += is_ahead

    def count_lost(self, num_rows: int) -> None:
        """Rows of a forward came to nothing."""
        self._num_lost_rows += num_rows

    def count_end(self, running: RunningRequest, reason: FinishReason) -> None:
        """A request ended; to be called once."""
        self._num_failed += reason is FinishReason.ERROR
        self._num_aborted += reason is FinishReason.ABORT
        self._num_finished += reason in (FinishReason.STOP, FinishReason.LENGTH)
        self._ended.include(running)

    def stats(self, scheduler: Scheduler, keeper: PageKeeper, pool: PagePool) -> EngineStats:
        """The numbers of now.

        Args:
            scheduler: Knows the unfinished requests.
            keeper: Of the same engine.
            pool: Of the same engine.
        """
        totals = self._ended.copy()
        for running in scheduler.unfinished:
            totals.include(running)
        canvases = keeper.canvases
        return EngineStats(
            num_finished=self._num_finished,
            num_failed=self._num_failed,
            num_aborted=self._num_aborted,
            num_running=scheduler.num_running,
            num_waiting=scheduler.num_waiting,
            num_preemptions=totals.num_preemptions,
            num_steps=self._num_steps,
            num_steps_ahead=self._num_steps_ahead,
            num_lost_rows=self._num_lost_rows,
            request_forwards=totals.num_forwards,
            num_refreshes=totals.num_refreshes,
            computed_rows=totals.computed_rows,
            num_unmasked=totals.num_unmasked,
            num_pages=pool.num_pages - 1,
            num_free_pages=pool.num_free,
            num_indexed_pages=pool.num_indexed,
            num_evicted_pages=pool.stats.evictions,
            prefix_hits=keeper.num_found,
            prefix_misses=keeper.num_missed,
            canvas_hits=canvases.num_hits,
            canvas_misses=canvases.num_misses,
            drift=totals.probes.report(),
        )


class _Totals:
    """What requests have cost, added up."""

    def __init__(self) -> None:
        self.num_forwards = 0
        self.num_refreshes = 0
        self.computed_rows = 0
        self.num_unmasked = 0
        self.num_preemptions = 0
        self.probes = ProbeTally()

    def include(self, running: RunningRequest) -> None:
        request = running.request
        self.num_forwards += request.num_forwards
        self.num_refreshes += request.num_refreshes
        self.computed_rows += request.computed_rows
        self.num_unmasked += request.num_unmasked
        self.num_preemptions += request.num_preemptions
        if running.probes is not None:
            self.probes.include(running.probes)

    def copy(self) -> _Totals:
        same = _Totals()
        vars(same).update(vars(self))
        same.probes = ProbeTally()
        same.probes.include(self.probes)
        return same
