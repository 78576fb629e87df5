"""Who takes part in a step: exact choices, what holds for all, and whole traces."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.arrival_simulation import draw_trace, simulate
from starr_engine.engine.selection import PATIENCE, Candidate, paced_refresh_rows, select


def block(arrival: int, rows: int = 4, **fields: Any) -> Candidate:
    plain = Candidate(num_rows=rows, is_refresh=False, priority=0, waited=0, arrival=arrival)
    return replace(plain, **fields)


def refresh(arrival: int, rows: int = 10, **fields: Any) -> Candidate:
    return block(arrival, rows, is_refresh=True, **fields)


def test_block_steps_come_before_refreshes_and_fill_the_step_first() -> None:
    candidates = [refresh(0), block(1), block(2), refresh(3)]
    assert select(candidates, max_rows=100) == [0, 1, 2, 3]
    assert select(candidates, max_rows=18) == [0, 1, 2]
    assert select(candidates, max_rows=17) == [1, 2]


def test_the_first_refresh_always_has_a_place_and_puts_off_those_behind_it() -> None:
    candidates = [refresh(0, 20), refresh(1, 5), refresh(2, 5), block(3)]
    assert select(candidates, max_rows=100, max_refresh_rows=1) == [0, 3]
    assert select(candidates, max_rows=100, max_refresh_rows=25) == [0, 1, 3]
    # "2" would fit where "1" does not; it would overtake it.
    candidates[1] = refresh(1, 10)
    assert select(candidates, max_rows=100, max_refresh_rows=25) == [0, 3]


def test_priority_goes_before_the_kind_of_step_and_patience_before_priority() -> None:
    candidates = [block(0, priority=1), refresh(1, priority=0)]
    assert select(candidates, max_rows=10) == [1]
    candidates[0] = block(0, priority=1, waited=PATIENCE)
    assert select(candidates, max_rows=10) == [0]


def test_among_equals_who_was_left_out_longer_comes_first() -> None:
    candidates = [block(0), block(1, waited=1), block(2, waited=2)]
    assert select(candidates, max_rows=8) == [1, 2]


def test_the_pace_is_what_refreshes_need_on_average_and_at_least_fills_the_ridge() -> None:
    rates = [block(at, refresh_rate=2.5) for at in range(8)]
    assert paced_refresh_rows(rates, ridge_rows=0) == 22
    assert paced_refresh_rows(rates, ridge_rows=100) == 100 - 32
    assert paced_refresh_rows([], ridge_rows=100) == 100


candidate_lists = st.lists(
    st.builds(
        Candidate,
        num_rows=st.integers(1, 50),
        is_refresh=st.booleans(),
        priority=st.integers(-1, 1),
        waited=st.integers(0, PATIENCE + 2),
        arrival=st.just(0),
        refresh_rate=st.floats(0, 50),
    ),
    max_size=12,
).map(lambda drawn: [replace(each, arrival=at) for at, each in enumerate(drawn)])


def rivals(candidates: list[Candidate], of: Candidate) -> list[int]:
    """Those that only their time of waiting and of coming tells apart from one."""

    def of_class(each: Candidate) -> object:
        return each.is_refresh, "late" if each.waited >= PATIENCE else each.priority

    return [at for at, each in enumerate(candidates) if of_class(each) == of_class(of)]


@settings(max_examples=300, deadline=None)
@given(
    candidates=candidate_lists,
    max_rows=st.integers(50, 400),
    max_refresh_rows=st.none() | st.integers(0, 100),
)
def test_every_step_makes_progress_within_its_budgets(
    candidates: list[Candidate], max_rows: int, max_refresh_rows: int | None
) -> None:
    chosen = select(candidates, max_rows=max_rows, max_refresh_rows=max_refresh_rows)
    assert chosen == sorted(set(chosen))
    assert bool(chosen) == bool(candidates)
    taken = [candidates[index] for index in chosen]
    assert sum(each.num_rows for each in taken) <= max_rows
    refreshes = [each.num_rows for each in taken if each.is_refresh]
    if max_refresh_rows is not None and len(refreshes) > 1:
        assert sum(refreshes) <= max_refresh_rows
    for index, left_out in enumerate(candidates):
        if index in chosen:
            continue
        for rival in set(chosen) & set(rivals(candidates, left_out)):
            assert (-candidates[rival].waited, rival) < (-left_out.waited, index)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    places=st.sampled_from([4, 16]),
    max_rows=st.sampled_from([256, 1024]),
    ridge_rows=st.sampled_from([0, 32, 128]),
    rate=st.sampled_from([0.0, 100.0]),
)
def test_over_any_trace_all_finish_and_nobody_starves(
    seed: int, places: int, max_rows: int, ridge_rows: int, rate: float
) -> None:
    arrivals = draw_trace(random.Random(seed), 150, rate)
    report = simulate(arrivals, places=places, max_rows=max_rows, ridge_rows=ridge_rows)
    assert report.num_finished == 150
    # Only others that lost patience too are ahead of one that did, and each of them once.
    assert report.longest_wait <= PATIENCE + places
