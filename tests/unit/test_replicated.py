"""Replicas die, hang and cannot load; requests end once, with all their tokens."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable, Coroutine
from functools import wraps
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve.request_router import PendingRequest

from starr_engine.config import EngineConfig
from starr_engine.distributed import (
    Replicas,
    Workers,
    application,
    replica,
    replicated,
    session,
)
from starr_engine.distributed.deployment import engine_deployment
from starr_engine.distributed.replica import EXIT_STATUS, End, Replica
from starr_engine.distributed.router import LeastWorkRouter
from starr_engine.errors import (
    ConfigError,
    EngineDeadError,
    ReplicaDiedError,
    RequestError,
    StarrError,
)
from starr_engine.outputs import RequestOutput
from tests.helpers.fake_replicas import FakeDeployment, FakeReplica, until

Test = Callable[..., Coroutine[Any, Any, None]]


def in_loop(test: Test) -> Callable[..., None]:
    @wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        asyncio.run(test(*arguments, **named))

    return run


def two() -> tuple[FakeDeployment, FakeReplica, FakeReplica]:
    first, second = FakeReplica("a"), FakeReplica("b")
    return FakeDeployment(first, second), first, second


@in_loop
async def test_a_request_gets_its_blocks_and_its_output_and_is_gone():
    fakes, first, _ = two()
    stream = fakes.ask("one", num_blocks=3)
    await until(lambda: first.calls, "the request")
    assert fakes.load("a") == (1, 13), "a prompt of one token weighs one"
    first.num_blocks = 3
    assert await stream.blocks(3) == [0, 4, 8]
    assert (await stream.get()).token_ids == tuple(range(12))
    await stream.task
    assert fakes.load("a") == fakes.load("b") == (0, 0)
    assert stream.is_empty


@in_loop
async def test_requests_go_where_the_least_tokens_are_outstanding():
    fakes, first, second = two()
    fakes.ask("long", num_blocks=3)
    await until(lambda: first.calls, "the first")
    for name in ("b", "c", "d"):  # 5, 10 and 15 tokens beside 13
        fakes.ask(name, num_blocks=1)
    await until(lambda: len(second.calls) == 3, "three on the other")
    fakes.ask("e", num_blocks=1)
    await until(lambda: first.names == ["long", "e"], "the last on the first")


@in_loop
async def test_blocks_that_are_done_are_outstanding_no_longer():
    fakes, first, second = two()
    stream = fakes.ask("long", num_blocks=5)
    await until(lambda: first.calls, "the first")
    fakes.ask("short", num_blocks=2)
    await until(lambda: second.calls, "the second")
    first.num_blocks = 4
    await stream.blocks(4)
    fakes.ask("next", num_blocks=1)
    await until(lambda: first.begun == ["long", "next"], "the next")


@in_loop
async def test_a_stream_goes_on_where_its_replica_died():
    fakes, first, second = two()
    stream = fakes.ask("one", num_blocks=3)
    await until(lambda: first.calls, "the request")
    first.num_blocks = 2
    assert await stream.blocks(2) == [0, 4]
    first.die()
    await until(lambda: second.calls, "the second run")
    second.num_blocks = 3
    assert await stream.blocks(1) == [8]
    assert isinstance(await stream.get(), RequestOutput)
    await stream.task
    state = await state_of(fakes)
    assert (state.num_deaths, state.num_reruns) == (1, 1)
    assert [each.name for each in state.replicas] == ["b"]
    assert stream.is_empty


@in_loop
async def test_a_dead_replica_is_chosen_no_more_though_serve_still_names_it():
    fakes, first, second = two()
    fakes.ask("one")
    await until(lambda: first.calls, "the request")
    first.die()
    await until(lambda: second.calls, "the second run")
    for name in ("two", "three"):
        fakes.ask(name)
    await until(lambda: len(second.calls) == 3, "all on the other")


@in_loop
async def test_a_replica_that_is_ended_before_its_requests_is_like_a_dead_one():
    fakes, first, second = two()
    stream = fakes.ask("one")
    await until(lambda: first.calls, "the request")
    first.is_stopped = True
    await until(lambda: second.calls, "the second run")
    second.num_blocks = 2
    assert await stream.blocks(2) == [0, 4]


@in_loop
async def test_a_stream_whose_second_run_says_otherwise_ends_with_an_error():
    first, second = FakeReplica("a"), FakeReplica("b", first_token=1)
    fakes = FakeDeployment(first, second)
    stream = fakes.ask("begun")
    await until(lambda: first.calls, "the request")
    first.num_blocks = 1
    await stream.blocks(1)
    first.die()
    await until(lambda: second.calls, "the second run")
    (call,) = second.calls
    second.num_blocks = 1
    with pytest.raises(ReplicaDiedError, match="makes other tokens"):
        await stream.get()
    await stream.task
    assert call.is_cancelled and not second.calls, "nobody waits for the rest"


@in_loop
async def test_a_request_that_loses_two_replicas_is_not_run_a_third_time():
    fakes, first, second = two()
    fatal = fakes.ask("fatal")
    await until(lambda: first.calls, "the first")
    other = fakes.ask("other")
    await until(lambda: second.calls, "the second")
    first.die()
    await until(lambda: len(second.calls) == 2, "the second run")
    third = FakeReplica("c")
    fakes.listed.append(third)
    second.die()
    with pytest.raises(ReplicaDiedError, match="2 times over; the request may be the reason"):
        await fatal.get()
    await until(lambda: third.names == ["other"], "the other one")
    third.num_blocks = 2
    assert await other.blocks(2) == [0, 4]


@in_loop
async def test_requests_wait_for_a_replica_and_those_that_are_cancelled_meanwhile_never_start():
    fakes = FakeDeployment()
    streams = [fakes.ask(name) for name in ("first", "doomed", "last")]
    await until(lambda: fakes.front._ledger.num_waiting == 3, "three")
    state = await state_of(fakes)
    assert state.num_waiting == 3 and not state.is_ready
    streams[1].task.cancel()
    await asyncio.wait([streams[1].task])
    late = FakeReplica("late")
    fakes.listed.append(late)
    await until(lambda: late.names == ["first", "last"], "two requests")
    assert fakes.front._ledger.num_waiting == 0
    assert (await state_of(fakes)).is_ready


@in_loop
async def test_a_cancelled_request_is_ended_where_it_runs():
    fakes, first, _ = two()
    stream = fakes.ask("one")
    await until(lambda: first.calls, "the request")
    (call,) = first.calls
    stream.task.cancel()
    await asyncio.wait([stream.task])
    assert call.is_cancelled and stream.is_empty
    assert fakes.load("a") == (0, 0)


def test_who_is_placed_after_the_end_is_not_counted():
    fakes, _, _ = two()
    ticket = fakes.ticket("gone")
    assert ticket.ledger.place(ticket, ["a"]) == "a"
    assert fakes.load("a") == (0, 0)


@in_loop
async def test_a_request_that_cannot_run_is_refused_alone():
    fakes, first, _ = two()
    stream = fakes.ask("one")
    await until(lambda: first.calls, "the request")
    first.end = End(RequestError("too long"))
    with pytest.raises(RequestError, match="too long"):
        await stream.get()
    assert (await state_of(fakes)).num_deaths == 0


@in_loop
async def test_a_deployment_that_has_failed_ends_the_front():
    fakes = FakeDeployment()
    fakes.is_failed = True
    with pytest.raises(EngineDeadError, match="no replica could be started"):
        await fakes.ask("one").get()
    with pytest.raises(EngineDeadError, match="has ended: no memory"):
        await state_of(fakes, status="DEPLOY_FAILED", message="no memory")


async def state_of(fakes: FakeDeployment, **application: Any) -> Any:
    deployments = {"Engine": SimpleNamespace(replica_states={"STARTING": 1, "RUNNING": 7})}
    told = {"status": "RUNNING", "message": "", "deployments": deployments} | application
    status = SimpleNamespace(applications={"app": SimpleNamespace(**told)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replicated.serve, "status", lambda: status)
        state = await fakes.front.fleet()
    assert (state.num_starting, state.num_draining) == (1, 0)
    return state


@in_loop
async def test_the_router_asks_the_ledger_of_the_request_and_sends_the_request_alone():
    fakes, _, _ = two()
    front = fakes.front
    router = object.__new__(LeastWorkRouter)
    candidates: Any = [
        SimpleNamespace(replica_id=SimpleNamespace(unique_id=name)) for name in ("a", "b")
    ]

    def pending(*arguments: Any) -> PendingRequest:
        metadata: Any = None
        return PendingRequest(args=list(arguments), kwargs={}, metadata=metadata)

    chosen = []
    for name in ("one", "two"):
        ticket = fakes.ticket(name)
        front._ledger.begin(ticket)
        ((found,),) = await router.choose_replicas(candidates, pending(ticket))
        chosen.append(found.replica_id.unique_id)
        assert pickle.loads(pickle.dumps(ticket)) == ticket.request
    assert chosen == ["a", "b"]
    front._ledger.lose(ticket, is_dead=True)
    assert await router.choose_replicas(candidates[1:], pending(ticket)) == []
    assert await router.choose_replicas(candidates, pending()) == [candidates]


class Engine:
    """As much of ``AsyncLLM`` as a replica needs here."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    async def stats(self) -> None:
        if self.error is None:
            await asyncio.sleep(60)
        else:
            raise self.error

    async def events(self, *arguments: Any, **options: Any) -> Any:
        raise self.error or AssertionError
        yield


class Ended(BaseException):
    """Instead of the end of the process."""


def replica_of(monkeypatch: pytest.MonkeyPatch, made: Any) -> Replica:
    def end(status: int) -> None:
        assert status == EXIT_STATUS
        raise Ended

    monkeypatch.setattr(replica.os, "_exit", end)
    monkeypatch.setattr(replica, "_make_engine", lambda options: made)
    return Replica({}, patience_s=0.01)


@pytest.mark.parametrize("error", [None, EngineDeadError("out of memory")])
def test_a_replica_whose_engine_is_dead_or_hangs_ends_itself(
    monkeypatch: pytest.MonkeyPatch, error: Exception | None
):
    with pytest.raises(Ended):
        asyncio.run(replica_of(monkeypatch, Engine(error)).check_health())


@pytest.mark.parametrize(
    ("error", "end"),
    [(RequestError("too long"), RequestError), (KeyError("fault"), RuntimeError)],
)
def test_what_a_request_ends_with_is_told(
    monkeypatch: pytest.MonkeyPatch, error: Exception, end: type[Exception]
):
    async def run() -> list[Any]:
        made = replica_of(monkeypatch, Engine(error))
        request: Any = SimpleNamespace(candidates=(), params=None, request_id="", provisional=False)
        return [event async for events in made.run(request) for event in events]

    (event,) = asyncio.run(run())
    assert isinstance(event.error, end)


def test_a_model_that_cannot_be_used_is_told_and_not_tried_again(monkeypatch: pytest.MonkeyPatch):
    made = replica_of(monkeypatch, ConfigError("there is no such model"))
    assert isinstance(made.info(), ConfigError)
    asyncio.run(made.check_health())


def test_serve_is_told_how_many_replicas_and_with_what():
    engine = EngineConfig(model="tiny-sdar", device="cpu", max_num_requests=8)
    wanted = {"num_cpus": 4.0, "num_gpus": 0.0}

    def deployment(config: EngineConfig, **options: Any) -> Any:
        return engine_deployment(config, Replicas(**options), wanted)._bound_deployment

    fixed = deployment(engine, count=3, drain_timeout_s=7)
    assert (fixed.num_replicas, fixed._deployment_config.autoscaling_config) == (3, None)
    assert fixed._deployment_config.graceful_shutdown_timeout_s == 7
    assert fixed.ray_actor_options["num_cpus"] == 4
    scaling = deployment(engine, count=2, min_count=1, max_count=5, downscale_delay_s=9)
    found = scaling._deployment_config.autoscaling_config
    assert (found.min_replicas, found.initial_replicas, found.max_replicas) == (1, 2, 5)
    assert (found.target_ongoing_requests, found.downscale_delay_s) == (8, 9)
    split = deployment(EngineConfig(model="tiny-sdar", device="cpu", tensor_parallel_size=2))
    assert split._replica_config.placement_group_bundles == [{"CPU": 2.0}] * 2
    assert split._replica_config.placement_group_strategy == "STRICT_PACK"
    assert split.ray_actor_options["num_cpus"] == 2


def test_what_no_replica_can_load_ends_the_start(monkeypatch: pytest.MonkeyPatch):
    asked = SimpleNamespace(result=lambda **_: ConfigError("there is no such model"))
    handle: Any = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda: asked))
    with pytest.raises(ConfigError, match="no such model"):
        application._first_info(handle, "app")


def test_replicas_are_not_served_from_outside_the_cluster():
    replicas = Replicas(address="ray://head:10001")
    with (
        pytest.raises(ConfigError, match=r"ray://head:10001.*auto or the HOST:PORT"),
        application.serve_replicas(EngineConfig(), replicas),
    ):
        raise AssertionError


def test_a_client_without_a_token_is_told_how_to_give_it(monkeypatch: pytest.MonkeyPatch):
    def refuse(**arguments: Any) -> None:
        raise ConnectionError("ray client connection timeout")

    monkeypatch.setattr(session.ray, "init", refuse)
    for address, is_client in (("ray://head:10001", True), ("head:6379", False)):
        with (
            pytest.raises(StarrError, match="no Ray cluster at") as raised,
            session.connected(Workers(address=address), EngineConfig()),
        ):
            raise AssertionError
        assert ("RAY_AUTH_MODE=token" in str(raised.value)) == is_client
