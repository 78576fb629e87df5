"""Replicas die, hang, fail to start and are let go; requests end once, with all their tokens."""

from __future__ import annotations

import queue
from typing import Any

import pytest

from starr_engine.errors import (
    ConfigError,
    EngineDeadError,
    ReplicaDiedError,
    RequestError,
    StarrError,
)
from starr_engine.outputs import BlockOutput, RequestOutput
from tests.helpers.fake_replicas import LIMIT_S, FakeReplica, fake_fleet, task_error


def blocks(events: queue.Queue[Any], count: int) -> list[int]:
    """First tokens of the next events, which are blocks."""
    found = [events.get(timeout=LIMIT_S) for _ in range(count)]
    assert all(isinstance(event, BlockOutput) for event in found), found
    return [event.token_ids[0] for event in found]


def test_a_request_gets_its_blocks_and_its_output_and_is_gone():
    with fake_fleet() as fakes:
        fakes.wait_for_phases(ready=2)
        _, events = fakes.ask("a", num_blocks=3)
        fakes.wait_for_requests(1, 0)
        fakes.actors[0].num_blocks = 3
        assert blocks(events, 3) == [0, 4, 8]
        assert events.get(timeout=LIMIT_S).token_ids == tuple(range(12))
        state = fakes.fleet.state().result()
        assert [replica.num_requests for replica in state.replicas] == [0, 0]
        assert [replica.outstanding_tokens for replica in state.replicas] == [0, 0]
        assert (state.num_deaths, state.num_reruns, state.num_waiting) == (0, 0, 0)
        assert events.empty() and fakes.actors[0].ended == []


def test_requests_go_where_the_least_tokens_are_outstanding():
    with fake_fleet() as fakes:
        fakes.wait_for_phases(ready=2)
        fakes.ask("long", num_blocks=3)
        fakes.wait_for_requests(1, 0)
        for name in ("b", "c", "d"):  # 1, 2 and 3 blocks: then both have as much
            fakes.ask(name, num_blocks=1)
        fakes.wait_for_requests(1, 3)
        fakes.ask("e", num_blocks=1)
        fakes.wait_for_requests(2, 3)


def test_blocks_that_are_done_are_outstanding_no_longer():
    with fake_fleet() as fakes:
        fakes.wait_for_phases(ready=2)
        _, events = fakes.ask("long", num_blocks=5)
        fakes.wait_for_requests(1, 0)
        fakes.ask("short", num_blocks=2)
        fakes.wait_for_requests(1, 1)
        fakes.actors[0].num_blocks = 4
        blocks(events, 4)
        fakes.ask("next", num_blocks=1)
        fakes.wait_for_requests(2, 1)


def test_a_stream_goes_on_where_its_replica_died():
    with fake_fleet() as fakes:
        fakes.wait_for_phases(ready=2)
        _, events = fakes.ask("a", num_blocks=3)
        fakes.wait_for_requests(1)
        fakes.actors[0].num_blocks = 2
        assert blocks(events, 2) == [0, 4]
        fakes.actors[0].die()
        fakes.wait_for_requests(1, 1)
        fakes.actors[1].num_blocks = 3
        assert blocks(events, 1) == [8]
        assert isinstance(events.get(timeout=LIMIT_S), RequestOutput)
        fakes.wait_for_phases(ready=2)
        state = fakes.fleet.state().result()
        assert (state.num_deaths, state.num_reruns) == (1, 1)
        assert [replica.name for replica in state.replicas] == ["1", "2"]
        assert events.empty()


def test_a_stream_whose_second_run_says_otherwise_ends_with_an_error():
    with fake_fleet(lambda number: FakeReplica(first_token=number)) as fakes:
        fakes.wait_for_phases(ready=2)
        _, begun = fakes.ask("begun")
        fakes.wait_for_requests(1)
        fakes.actors[0].num_blocks = 1
        blocks(begun, 1)
        fakes.actors[0].die()
        fakes.wait_for_requests(1, 1)
        fakes.actors[1].num_blocks = 1
        with pytest.raises(ReplicaDiedError, match="makes other tokens"):
            raise begun.get(timeout=LIMIT_S)
        fakes.wait_for_requests(1, 0)
        assert len(fakes.actors[1].ended) == 1, "nobody waits for the rest"


def test_a_request_that_loses_two_replicas_is_not_run_a_third_time():
    with fake_fleet() as fakes:
        fakes.wait_for_phases(ready=2)
        _, fatal = fakes.ask("fatal")
        fakes.wait_for_requests(1)
        _, other = fakes.ask("other")
        fakes.wait_for_requests(1, 1)
        fakes.actors[0].die()
        fakes.wait_for_requests(1, 2)
        fakes.actors[1].die()
        with pytest.raises(ReplicaDiedError, match="2 times over; the request may be the reason"):
            raise fatal.get(timeout=LIMIT_S)
        fakes.wait(lambda: len(fakes.actors) > 2 and fakes.actors[2].requests, "the other one")
        fakes.actors[2].num_blocks = 2
        assert blocks(other, 2) == [0, 4]


def test_requests_wait_for_a_replica_and_those_that_are_cancelled_meanwhile_never_start():
    def make(number: int) -> FakeReplica:
        made = FakeReplica()
        if number:
            made.may_load.clear()
        return made

    with fake_fleet(make, count=1) as fakes:
        fakes.wait_for_phases(ready=1)
        assert fakes.fleet.state().result().is_ready
        fakes.actors[0].die()
        fakes.wait_for_phases(ready=0, starting=1)
        _, first = fakes.ask("first")
        doomed, _ = fakes.ask("doomed")
        fakes.ask("last")
        state = fakes.fleet.state().result()
        assert state.num_waiting == 3 and not state.is_ready
        fakes.fleet.cancel(doomed)
        fakes.actors[1].may_load.set()
        fakes.wait(lambda: len(fakes.actors[1].requests) == 2, "two requests")
        names = [request.request_id for request in fakes.actors[1].requests.values()]
        assert names == ["first", "last"]
        assert first.empty()


def test_a_cancelled_request_is_ended_where_it_runs_and_heard_of_no_more():
    with fake_fleet() as fakes:
        fakes.wait_for_phases(ready=2)
        ticket, events = fakes.ask("a")
        fakes.wait_for_requests(1)
        fakes.fleet.cancel(ticket)
        fakes.wait(lambda: fakes.actors[0].ended == [ticket.key], "the end")
        fakes.fleet.cancel(ticket)
        assert fakes.fleet.state().result().replicas[0].num_requests == 0
        assert events.empty() and len(fakes.actors[0].ended) == 1


def test_a_request_that_cannot_run_is_refused_alone():
    with fake_fleet(count=1) as fakes:
        fakes.wait_for_phases(ready=1)
        _, events = fakes.ask("a")
        fakes.wait_for_requests(1)
        fakes.actors[0].event_error = RequestError("too long")
        with pytest.raises(RequestError, match="too long"):
            raise events.get(timeout=LIMIT_S)
        assert fakes.fleet.state().result().num_deaths == 0


def test_an_engine_that_has_failed_is_replaced_though_its_process_lives():
    with fake_fleet() as fakes:
        fakes.wait_for_phases(ready=2)
        _, events = fakes.ask("a")
        fakes.wait_for_requests(1)
        fakes.actors[0].event_error = EngineDeadError("out of memory")
        fakes.wait_for_requests(0, 1)
        assert fakes.actors[0].is_ended
        fakes.actors[1].num_blocks = 2
        assert blocks(events, 2) == [0, 4]


def test_a_replica_that_does_not_answer_is_ended_and_replaced():
    with fake_fleet(count=1, check_interval_s=0.01, check_timeout_s=0.1) as fakes:
        fakes.wait_for_phases(ready=1)
        fakes.actors[0].hangs = True
        fakes.wait(lambda: len(fakes.actors) == 2, "another one")
        assert fakes.actors[0].is_ended
        fakes.wait_for_phases(ready=1)


def test_what_no_replica_can_load_is_told_as_it_is():
    error = task_error(ConfigError("there is no such model"))
    with (
        fake_fleet(lambda number: FakeReplica(load_error=error)) as fakes,
        pytest.raises(ConfigError, match="no such model"),
    ):
        fakes.fleet.first.result(LIMIT_S)


def test_replicas_that_die_while_they_load_end_it_all_only_if_none_lives(monkeypatch):
    monkeypatch.setattr("starr_engine.distributed.fleet._MAX_PAUSE_S", 0.001)

    def make(number: int) -> FakeReplica:
        made = FakeReplica()
        if number:
            made.die()
            made.may_load.clear()
        return made

    with fake_fleet(make) as fakes:
        fakes.wait_for_phases(ready=1)
        fakes.wait(lambda: len(fakes.actors) > 6, "more attempts than are made without a replica")
        assert fakes.fleet.state().result().is_ready
        _, events = fakes.ask("a")
        fakes.wait_for_requests(1)
        fakes.actors[0].die()
        with pytest.raises(EngineDeadError, match="no replica could be started"):
            raise events.get(timeout=LIMIT_S)
        with pytest.raises(EngineDeadError):
            fakes.fleet.state().result(LIMIT_S)
        _, late = fakes.ask("late")
        assert isinstance(late.get(timeout=LIMIT_S), EngineDeadError)


def test_the_first_replica_that_dies_thrice_ends_the_start(monkeypatch):
    monkeypatch.setattr("starr_engine.distributed.fleet._MAX_PAUSE_S", 0.001)

    def make(number: int) -> FakeReplica:
        made = FakeReplica()
        made.die()
        made.may_load.clear()
        return made

    with fake_fleet(make, count=1) as fakes:
        with pytest.raises(StarrError, match="no replica could be started"):
            fakes.fleet.first.result(LIMIT_S)
        assert len(fakes.actors) == 3


def test_more_requests_start_replicas_and_those_that_are_let_go_finish_first():
    delays = {"upscale_delay_s": 0.01, "downscale_delay_s": 0.01}
    with fake_fleet(count=1, min_count=1, max_count=2, **delays) as fakes:
        fakes.wait_for_phases(ready=1)
        tickets = [fakes.ask(str(number))[0] for number in range(5)]  # a batch is 4
        fakes.wait_for_phases(ready=2)
        assert len(fakes.actors) == 2
        _, events = fakes.ask("on the new one")
        fakes.wait_for_requests(5, 1)
        for ticket in tickets[:3]:
            fakes.fleet.cancel(ticket)
        fakes.wait_for_phases(draining=1)
        assert not fakes.actors[1].is_ended
        fakes.ask("not there")
        fakes.wait_for_requests(3, 1)
        fakes.actors[1].num_blocks = 2
        assert blocks(events, 2) == [0, 4]
        fakes.wait(lambda: fakes.actors[1].is_ended, "the end of the idle one")
        state = fakes.fleet.state().result()
        assert len(state.replicas) == 1 and state.num_deaths == 0


def test_a_replica_that_is_being_let_go_is_kept_when_it_is_needed_again():
    delays = {"upscale_delay_s": 0.01, "downscale_delay_s": 0.01}
    with fake_fleet(count=1, min_count=1, max_count=2, **delays) as fakes:
        fakes.wait_for_phases(ready=1)
        tickets = [fakes.ask(str(number))[0] for number in range(5)]
        fakes.wait_for_phases(ready=2)
        last, _ = fakes.ask("on the new one")
        fakes.wait_for_requests(5, 1)
        for ticket in tickets[:3]:
            fakes.fleet.cancel(ticket)
        fakes.wait_for_phases(draining=1)
        for number in range(3):
            fakes.ask(f"more {number}")
        fakes.wait_for_phases(ready=2)
        assert len(fakes.actors) == 2
        fakes.fleet.cancel(last)


def test_who_asks_for_the_state_and_goes_harms_nobody():
    with fake_fleet(count=1) as fakes:
        fakes.wait_for_phases(ready=1)
        fakes.actors[0].hangs = True  # so that the answer takes a while
        for _ in range(20):
            fakes.fleet.state().cancel()
        fakes.actors[0].hangs = False
        fakes.wait_for_phases(ready=1)
        _, events = fakes.ask("a")
        fakes.wait_for_requests(1)
        fakes.actors[0].num_blocks = 2
        assert blocks(events, 2) == [0, 4]


def test_what_is_unfinished_at_the_end_gets_an_error_and_so_does_what_comes_after():
    with fake_fleet() as fakes:
        fakes.wait_for_phases(ready=2)
        ticket, events = fakes.ask("a")
        fakes.wait_for_requests(1)
        fakes.fleet.close()
        with pytest.raises(EngineDeadError, match="closed before"):
            raise events.get(timeout=LIMIT_S)
        with pytest.raises(EngineDeadError, match="is closed"):
            fakes.ask("late")
        with pytest.raises(EngineDeadError):
            fakes.fleet.state().result(LIMIT_S)
        fakes.fleet.cancel(ticket)
