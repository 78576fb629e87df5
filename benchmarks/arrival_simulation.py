"""Requests that come at random times, without a model: what selection makes of them."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from starr_engine.engine.selection import Candidate, paced_refresh_rows, select


@dataclass(slots=True, kw_only=True)
class Arrival:
    """A request under a policy that refreshes at each block's first step."""

    arrival: int
    due_s: float
    """When it comes, in seconds of the trace."""

    canvas: int
    """Rows of a refresh, and rows read at every step."""

    block: int
    """Rows of a step inside a block."""

    steps: list[int]
    """Steps inside each block, behind its refresh; used up."""

    priority: int = 0
    waited: int = 0
    done_steps: int = 0
    refresh_rows: int = 0
    first_s: float | None = None
    """When its first block was through."""

    end_s: float | None = None
    left: int = field(init=False)
    """Steps left in the active block, its refresh included."""

    def __post_init__(self) -> None:
        self.left = self.steps[0] + 1

    @property
    def is_refresh(self) -> bool:
        """Whether its next step is the first of a block."""
        return self.left == self.steps[0] + 1

    @property
    def rows(self) -> int:
        """Of its next step."""
        return self.canvas if self.is_refresh else self.block

    def candidate(self) -> Candidate:
        """What selection sees of it, as the scheduler tells it."""
        expected = float(self.rows if self.is_refresh else 0)
        return Candidate(
            num_rows=self.rows,
            is_refresh=self.is_refresh,
            priority=self.priority,
            waited=self.waited,
            arrival=self.arrival,
            refresh_rate=self.refresh_rows / self.done_steps if self.done_steps else expected,
        )

    def advance(self, now_s: float) -> None:
        """Its step is done, at ``now_s``."""
        self.refresh_rows += self.canvas if self.is_refresh else 0
        self.done_steps += 1
        self.left -= 1
        if self.left:
            return
        self.steps.pop(0)
        self.first_s = now_s if self.first_s is None else self.first_s
        if self.steps:
            self.left = self.steps[0] + 1
        else:
            self.end_s = now_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A step takes as long as moving its bytes or computing, whichever is longer."""

    weights_s: float = 1e-3
    """To read the weights."""

    row_s: float = 1e-5
    """To multiply one row with them."""

    read_s: float = 0.0
    """To read the keys and values of one row."""

    pair_s: float = 0.0
    """To let one row attend to another."""

    def step_s(self, shares: Iterable[tuple[int, int]]) -> float:
        """Of a step of requests with so many (rows computed, rows read)."""
        num_rows = num_read = num_pairs = 0
        for rows, read in shares:
            num_rows += rows
            num_read += read
            num_pairs += rows * read
        memory_s = self.weights_s + self.read_s * num_read
        return max(memory_s, self.row_s * num_rows + self.pair_s * num_pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What became of a trace."""

    num_finished: int
    seconds: float
    """Of the whole trace."""

    longest_wait: int
    """Steps in a row that a request with a place was left out of."""

    first_block_s: list[float]
    """From arrival to the end of the first block, of each request."""

    end_s: list[float]
    """From arrival to the end, of each request."""

    step_s: list[float]


def draw_trace(drawn: random.Random, num_requests: int, rate: float) -> list[Arrival]:
    """Requests of mixed lengths; ``rate`` a second on average, all at once if it is 0."""
    due_s, arrivals = 0.0, []
    for arrival in range(num_requests):
        due_s += drawn.expovariate(rate) if rate else 0.0
        arrivals.append(
            Arrival(
                arrival=arrival,
                due_s=due_s,
                canvas=drawn.randint(40, 240),
                block=drawn.choice([8, 32]),
                steps=[drawn.randint(0, 12) for _ in range(drawn.randint(1, 6))],
                priority=drawn.choice([0, 0, 0, 1]),
            )
        )
    return arrivals


def simulate(
    arrivals: list[Arrival],
    *,
    places: int,
    max_rows: int,
    ridge_rows: int,
    static: bool = False,
    dense: bool = False,
    machine: Machine = Machine(),
) -> Report:
    """Run a trace to its end.

    Args:
        arrivals: In the order in which they come; used up.
        places: Requests that run at once.
        max_rows: Of a step.
        ridge_rows: As for the scheduler; 0 lets refreshes coincide.
        static: Admit only once all running requests have finished.
        dense: Compute the blocks of finished requests until then, as one dense tensor does.
        machine: How long steps take.
    """
    first = 0
    running: list[Arrival] = []
    finished: list[Arrival] = []
    now_s, longest, step_s = 0.0, 0, []
    while first < len(arrivals) or running:
        is_open = not (static and running)
        while is_open and first < len(arrivals) and len(running) < places:
            if arrivals[first].due_s > now_s:
                break
            running.append(arrivals[first])
            first += 1
        if not running:
            now_s = arrivals[first].due_s
            continue
        candidates = [each.candidate() for each in running]
        chosen = select(
            candidates,
            max_rows=max_rows,
            max_refresh_rows=paced_refresh_rows(candidates, ridge_rows) if ridge_rows else None,
        )
        shares = [(candidates[index].num_rows, running[index].canvas) for index in chosen]
        if dense:
            shares += [(each.block, each.canvas) for each in finished]
        step_s.append(machine.step_s(shares))
        now_s += step_s[-1]
        for each in running:
            each.waited += 1
        for index in chosen:
            running[index].waited = 0
            running[index].advance(now_s)
        longest = max(longest, max(each.waited for each in running))
        finished += [each for each in running if each.end_s is not None]
        running = [each for each in running if each.end_s is None]
        if not running:
            finished.clear()
    return Report(
        num_finished=sum(each.end_s is not None for each in arrivals),
        seconds=now_s,
        longest_wait=longest,
        first_block_s=[each.first_s - each.due_s for each in arrivals if each.first_s is not None],
        end_s=[each.end_s - each.due_s for each in arrivals if each.end_s is not None],
        step_s=step_s,
    )
