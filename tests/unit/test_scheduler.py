"""Exact schedules: who is admitted, who waits, who is left out and who comes first then."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from starr_engine._core import PagePool
from starr_engine.cache.policies.dual import DualCache
from starr_engine.cache.policies.none import NoCache
from starr_engine.decoding.policies.threshold import ThresholdPolicy
from starr_engine.engine.canvas_cache import CanvasCache
from starr_engine.engine.paging import PageKeeper
from starr_engine.engine.running import RunningRequest
from starr_engine.engine.scheduler import Scheduler
from starr_engine.engine.selection import PATIENCE
from starr_engine.params import SamplingParams
from starr_engine.request import Request, RequestStatus

PAGE_SIZE = 4


def make_scheduler(
    *, pages: int = 100, requests: int = 8, rows: int = 1000, ridge: int = 0
) -> Scheduler:
    """``pages`` counts those that can be had."""
    pool = PagePool(pages + 1, PAGE_SIZE)
    canvases = CanvasCache(pool, max_entries=0)
    keeper = PageKeeper(pool, identity="", share_prefixes=True, canvases=canvases)
    return Scheduler(
        keeper, max_num_requests=requests, max_num_batched_tokens=rows, ridge_rows=ridge
    )


def request(
    name: str, *, length: int = 10, cache: str = "dual", priority: int = 0
) -> RunningRequest:
    """A canvas of ``length`` rows: the prompt, and one block of 4."""
    params = SamplingParams(max_tokens=4, block_length=4, priority=priority)
    policy: Any = DualCache() if cache == "dual" else NoCache()
    inner = Request(name, np.full(length - 4, 5, np.int32), params, mask_token_id=3)
    return RunningRequest(inner, ThresholdPolicy(), policy, torch.device("cpu"))


def names(scheduler: Scheduler) -> str:
    return "".join(entry.running.request.request_id for entry in scheduler.schedule())


def add_all(scheduler: Scheduler, names_: str, **kind: Any) -> list[RunningRequest]:
    requests = [request(name, **kind) for name in names_]
    for entry in requests:
        scheduler.add(entry)
    return requests


def test_requests_are_admitted_in_order_up_to_the_number_of_places() -> None:
    scheduler = make_scheduler(requests=3)
    requests = add_all(scheduler, "abcde")
    assert (scheduler.num_waiting, scheduler.num_running) == (5, 0)
    assert names(scheduler) == "abc"
    assert (scheduler.num_waiting, scheduler.num_running) == (2, 3)
    assert [entry.request.status for entry in requests[2:4]] == [
        RequestStatus.RUNNING,
        RequestStatus.WAITING,
    ]
    scheduler.remove("b")
    assert names(scheduler) == "acd"


def test_pages_for_the_whole_canvas_are_taken_at_admission_and_given_back_at_removal() -> None:
    # 10 rows are 3 pages of 4.
    scheduler = make_scheduler(pages=7)
    requests = add_all(scheduler, "abc")
    pool = scheduler._keeper._pool
    assert names(scheduler) == "ab"
    assert pool.num_free == 1
    assert requests[0].pages is not None
    assert len(requests[0].pages.pages) == 3
    assert requests[2].pages is None
    assert names(scheduler) == "ab"
    scheduler.remove("a")
    assert requests[0].pages is None
    assert pool.num_free == 4
    assert names(scheduler) == "bc"
    pool.check_invariants()


def test_a_request_short_of_pages_holds_up_those_behind_it() -> None:
    # First come, first served: "c" and "d" would fit, but "b" must not starve.
    scheduler = make_scheduler(pages=4)
    scheduler.add(request("a", length=10))
    scheduler.add(request("b", length=8))
    scheduler.add(request("c", length=5))
    scheduler.add(request("d", cache="none"))
    assert names(scheduler) == "a"
    scheduler.remove("a")
    assert names(scheduler) == "bcd"


def test_requests_without_a_cache_take_no_pages() -> None:
    scheduler = make_scheduler(pages=1)
    requests = add_all(scheduler, "abc", cache="none")
    assert names(scheduler) == "abc"
    assert all(entry.pages is None for entry in requests)
    assert scheduler._keeper._pool.num_free == 1


def test_those_left_out_by_the_row_budget_come_first_in_the_next_step() -> None:
    # 10 rows each without cache; 25 hold two.
    scheduler = make_scheduler(rows=25)
    add_all(scheduler, "abcde", cache="none")
    assert [names(scheduler) for _ in range(6)] == ["ab", "cd", "ae", "bc", "ad", "be"]


def test_a_smaller_request_does_not_overtake_the_first_that_was_left_out() -> None:
    scheduler = make_scheduler(rows=25)
    scheduler.add(request("a", length=20, cache="none"))
    scheduler.add(request("b", length=20, cache="none"))
    scheduler.add(request("c", length=5, cache="none"))
    assert [names(scheduler) for _ in range(3)] == ["a", "bc", "a"]


def test_the_budget_counts_the_rows_of_the_plan_and_not_of_the_canvas() -> None:
    scheduler = make_scheduler(rows=14)
    requests = add_all(scheduler, "abc")
    # A refresh takes all 10 rows, a step inside the block 4.
    assert [names(scheduler) for _ in range(3)] == ["a", "b", "c"]
    for entry in requests:
        entry.request.count_forward(10, is_refresh=True)
    assert names(scheduler) == "abc"
    scheduler.add(request("d"))
    # A refresh waits for steps inside blocks, but not for ever.
    assert [names(scheduler) for _ in range(PATIENCE + 2)] == ["abc"] * PATIENCE + ["ad", "abc"]


def test_a_removed_request_is_gone_from_wherever_it_was() -> None:
    scheduler = make_scheduler(requests=1)
    running, waiting = add_all(scheduler, "ab")
    assert names(scheduler) == "a"
    assert "b" in scheduler
    assert scheduler.remove("b") is waiting
    assert "b" not in scheduler
    assert scheduler.remove("b") is None
    assert scheduler.remove("a") is running
    assert running.request.status is waiting.request.status is RequestStatus.FINISHED
    assert names(scheduler) == ""
    assert (scheduler.num_waiting, scheduler.num_running) == (0, 0)


@pytest.mark.parametrize("cache", ["none", "dual"])
def test_a_request_removed_while_left_out_is_not_scheduled_again(cache: str) -> None:
    scheduler = make_scheduler(rows=10)
    add_all(scheduler, "abc", cache=cache)
    assert names(scheduler) == "a"
    scheduler.remove("b")
    assert [names(scheduler) for _ in range(2)] == ["c", "a"]


def test_lower_priority_numbers_are_admitted_and_chosen_first() -> None:
    scheduler = make_scheduler(requests=2, rows=10)
    add_all(scheduler, "ab", cache="none", priority=1)
    scheduler.add(request("c", cache="none"))
    # "c" came last and is admitted first; "a" has the other place, and its turn at last.
    assert [names(scheduler) for _ in range(PATIENCE + 1)] == ["c"] * PATIENCE + ["a"]
    assert scheduler.num_waiting == 1


def test_a_request_of_higher_priority_takes_the_place_of_the_last_of_a_lower_one() -> None:
    scheduler = make_scheduler(requests=2)
    low, last = add_all(scheduler, "ab", priority=5)
    assert names(scheduler) == "ab"
    scheduler.add(request("c", priority=1))
    assert names(scheduler) == "ac"
    assert last.pages is None
    assert last.request.num_preemptions == 1
    scheduler.add(request("d", priority=5))
    scheduler.remove("c")
    # It goes on before those of its priority that came after it.
    assert names(scheduler) == "ab"
    assert low.request.num_preemptions == 0


def test_inside_a_block_a_request_keeps_its_place_whatever_the_priority() -> None:
    scheduler = make_scheduler(requests=1)
    [held] = add_all(scheduler, "a", priority=5)
    assert names(scheduler) == "a"
    held.request.count_forward(10, is_refresh=True)
    scheduler.add(request("b"))
    assert names(scheduler) == "a"
    held.request.steps_in_block = 0  # as at the next block
    assert names(scheduler) == "b"


def test_pages_are_taken_from_lower_priorities_only_if_they_suffice() -> None:
    # 10 rows are 3 pages of 4.
    scheduler = make_scheduler(pages=6)
    scheduler.add(request("a", priority=5))
    scheduler.add(request("b", priority=0))
    assert names(scheduler) == "ba"
    scheduler.add(request("c", length=20, priority=1))
    assert names(scheduler) == "ba"
    scheduler.add(request("d", priority=1))
    scheduler.remove("c")
    assert names(scheduler) == "bd"


def test_refreshes_beyond_the_ridge_are_spread_over_steps() -> None:
    scheduler = make_scheduler(requests=5, ridge=12)
    requests = add_all(scheduler, "abcde")
    # The first time all are needed at once: nothing is known of how often.
    assert names(scheduler) == "abcde"
    for entry in requests:
        for step in range(4):
            entry.request.count_forward(10 if step == 0 else 4, is_refresh=step == 0)
        entry.request.steps_in_block = 0  # all refresh next, one step in four so far
    chosen = []
    for _ in range(4):
        chosen.append(names(scheduler))
        for name in chosen[-1]:
            inner = requests["abcde".index(name)].request
            is_refresh = inner.steps_in_block == 0
            inner.count_forward(10 if is_refresh else 4, is_refresh=is_refresh)
    # 5 x 10 rows in 4 steps are 12.5 a step, with some to spare: one refresh of 10 rows. Those
    # inside their block go on beside it.
    assert chosen == ["a", "ab", "abc", "abcd"]
