"""What the workers are doing: a line for the terminal, and Ray's metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from ray.util.metrics import Counter, Gauge

from starr_engine.distributed.handout import Handout
from starr_engine.distributed.pool import Died, Event, Finished, Member
from starr_engine.offline.summary import Tally

MAX_SHOWN: Final = 4
"""Of more workers than this the line shows only the slowest and the fastest."""


class Monitor:
    """Counts events.

    Metrics, which Ray's agents export to Prometheus; by worker those marked *:

    * ``starr_batch_rows``*, ``starr_batch_errors``*: finished rows; those of them with an error
    * ``starr_batch_tokens``*, ``starr_batch_forwards``*: generated tokens; model forwards
    * ``starr_batch_held_rows``*: rows that a worker has and has not finished
    * ``starr_batch_worker_deaths``*
    * ``starr_batch_ready_workers``: those with their model loaded
    * ``starr_batch_set_aside_rows``

    Args:
        count: Workers.
    """

    def __init__(self, count: int) -> None:
        self._tallies: Final = [Tally() for _ in range(count)]
        self._num_ready = 0
        self._num_deaths = 0
        by_worker = ("worker",)
        self._rows: Final = Counter("starr_batch_rows", "Finished rows.", by_worker)
        self._errors: Final = Counter("starr_batch_errors", "Rows with an error.", by_worker)
        self._tokens: Final = Counter("starr_batch_tokens", "Generated tokens.", by_worker)
        self._forwards: Final = Counter("starr_batch_forwards", "Model forwards.", by_worker)
        self._deaths: Final = Counter("starr_batch_worker_deaths", "Dead workers.", by_worker)
        self._held: Final = Gauge("starr_batch_held_rows", "Unfinished rows.", by_worker)
        self._ready: Final = Gauge("starr_batch_ready_workers", "Workers with a model.")
        self._set_aside: Final = Gauge("starr_batch_set_aside_rows", "Rows that end workers.")

    def hear(self, event: Event) -> None:
        """Count an event."""
        place = event.member.place
        tags = {"worker": str(place)}
        if isinstance(event, Died):
            self._num_deaths += 1
            self._deaths.inc(1, tags)
        elif isinstance(event, Finished):
            self._count(self._tallies[place], event.rows, tags)

    def _count(
        self, tally: Tally, rows: Sequence[tuple[int, dict[str, Any]]], tags: dict[str, str]
    ) -> None:
        before = tally.num_rows, tally.num_errors, tally.num_tokens, tally.num_forwards
        for _, columns in rows:
            tally.add(columns)
        after = tally.num_rows, tally.num_errors, tally.num_tokens, tally.num_forwards
        counters = self._rows, self._errors, self._tokens, self._forwards
        for counter, old, new in zip(counters, before, after, strict=True):
            if new > old:
                counter.inc(new - old, tags)

    def show(self, members: Sequence[Member], handout: Handout) -> None:
        """Take in how things stand."""
        self._num_ready = sum(member.info is not None for member in members)
        for member in members:
            if member.info and not self._tallies[member.place].wall_s:
                self._tallies[member.place].start_clock()
            self._held.set(handout.num_held(member.key), {"worker": str(member.place)})
        self._ready.set(self._num_ready)
        self._set_aside.set(handout.num_set_aside)

    def note(self) -> str:
        """For the progress bar: ready workers, their tokens per second, and deaths."""
        speeds = [f"{tally.tokens_per_s:.0f}" for tally in self._tallies]
        if len(speeds) > MAX_SHOWN:
            fast_last = sorted(self._tallies, key=lambda tally: tally.tokens_per_s)
            speeds = [f"{tally.tokens_per_s:.0f}" for tally in (fast_last[0], fast_last[-1])]
        between = " to " if len(self._tallies) > MAX_SHOWN else " + "
        deaths = f", {self._num_deaths} died" if self._num_deaths else ""
        return f"{self._num_ready}/{len(self._tallies)} workers: {between.join(speeds)}{deaths}"
