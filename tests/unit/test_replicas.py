"""The parts around replicas: options, second runs, the outbox, metrics and flags."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from starr_engine.cli.main import main
from starr_engine.distributed import Replicas, Workers, application
from starr_engine.distributed.replay import DifferentTokensError, Replay
from starr_engine.distributed.replica import End, Outbox
from starr_engine.engine.stats import EngineStats
from starr_engine.errors import ConfigError, EngineDeadError, ReplicaDiedError
from starr_engine.outputs import (
    BlockOutput,
    CacheDrift,
    FinishReason,
    ProvisionalOutput,
    RequestOutput,
)
from starr_engine.params import SamplingParams
from starr_engine.serve.app import make_app
from starr_engine.serve.config import ServeConfig
from starr_engine.serve.errors import as_api_error
from starr_engine.serve.metrics import ServerMetrics
from starr_engine.serve.protocol import FleetState, ReplicaState


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"count": 0}, "count must be an integer >= 1, got 0"),
        ({"min_count": True}, "min_count must be an integer >= 1, got True"),
        ({"count": 2, "min_count": 3}, "from min_count to max_count, got 2 and 3 to 2"),
        ({"count": 2, "max_count": 1}, "from min_count to max_count, got 2 and 2 to 1"),
        ({"check_timeout_s": 0}, "check_timeout_s must be a finite number of seconds > 0, got 0"),
        ({"gpus_per_replica": 2}, "gpus_per_replica must be a number from 0 to 1"),
        ({"count": 0, "upscale_delay_s": -1}, "count must.*; upscale_delay_s must"),
    ],
)
def test_impossible_replicas_are_refused(options: dict[str, Any], problem: str):
    with pytest.raises(ConfigError, match=problem):
        Replicas(**options)


def test_ray_must_have_room_for_the_most_replicas():
    replicas = Replicas(count=2, max_count=5, gpus_per_replica=0.5, address="auto")
    assert replicas.limits == (2, 5)
    assert replicas.workers == Workers(count=5, gpus_per_worker=0.5, address="auto")


def block(name: str, index: int, *tokens: int) -> BlockOutput:
    return BlockOutput(
        request_id=name, block_index=index, token_ids=tokens, text="", num_forwards=1
    )


def provisional(name: str, step: int) -> ProvisionalOutput:
    return ProvisionalOutput(request_id=name, block_index=0, token_ids=(None,), num_forwards=step)


def output(name: str) -> RequestOutput:
    return RequestOutput(
        request_id=name, prompt_token_ids=(1,), token_ids=(2,), text="", nfe=1, num_unmasked=1,
        finish_reason=FinishReason.LENGTH, computed_rows=1, cache_label="exact", latency_s=0.0,
    )  # fmt: skip


RUNS = st.lists(st.tuples(st.sampled_from("ab"), st.booleans()), max_size=12)


@given(RUNS, st.lists(st.integers(0, 20), max_size=3))
def test_runs_that_break_off_anywhere_give_each_block_once_and_in_order(run, breaks):
    counts = {"a": 0, "b": 0}
    events: list[Any] = []
    for name, is_provisional in run:
        if is_provisional:
            events.append(provisional(name, len(events)))
        else:
            events.append(block(name, counts[name], counts[name]))
            counts[name] += 1
    events += [output("a"), output("b")]
    replay, given_events = Replay(), []
    for stop in [*breaks, len(events)]:
        given_events += [event for event in events[:stop] if replay.is_new(event)]
        replay.restart()
    for name, count in counts.items():
        blocks = [e.block_index for e in given_events if e.request_id == name
                  and isinstance(e, BlockOutput)]  # fmt: skip
        assert blocks == list(range(count))
    assert sum(isinstance(event, RequestOutput) for event in given_events) == 2


@pytest.mark.parametrize(
    "second",
    [
        [block("a", 0, 1), block("a", 1, 9)],  # another token
        [block("a", 0, 1), output("a")],  # an end that is too early
    ],
)
def test_a_second_run_that_contradicts_the_first_is_noticed(second: list[Any]):
    replay = Replay()
    assert replay.is_new(block("a", 0, 1)) and replay.is_new(block("a", 1, 2))
    replay.restart()
    assert not replay.is_new(second[0])
    with pytest.raises(DifferentTokensError):
        replay.is_new(second[1])


def test_a_second_run_that_goes_on_behind_the_end_is_noticed():
    replay = Replay()
    assert replay.is_new(block("a", 0, 1)) and replay.is_new(output("a"))
    replay.restart()
    assert not replay.is_new(block("a", 0, 1))
    with pytest.raises(DifferentTokensError):
        replay.is_new(block("a", 1, 1))


def test_the_outbox_gives_all_at_once_and_only_the_newest_provisional_block():
    async def test() -> None:
        outbox = Outbox()
        taking = asyncio.create_task(outbox.take())
        await asyncio.sleep(0)
        assert not taking.done()
        outbox.put(block("a", 0, 1))
        assert await taking == [block("a", 0, 1)]
        for step in range(3):
            outbox.put(provisional("a", step))
            outbox.put(provisional("a.1", 10 + step))  # another sample
        outbox.put(block("a", 1, 1))
        outbox.put(provisional("a", 3))
        outbox.put(End(None))
        assert await outbox.take() == [
            provisional("a", 2),
            provisional("a.1", 12),
            block("a", 1, 1),
            provisional("a", 3),
            End(None),
        ]
        outbox.put(provisional("a", 4))
        assert await outbox.take() == [provisional("a", 4)]

    asyncio.run(test())


STATS = EngineStats(
    num_finished=1, num_failed=2, num_aborted=3, num_running=4, num_waiting=5, num_preemptions=6,
    num_steps=7, num_steps_ahead=0, num_lost_rows=0, request_forwards=8, num_refreshes=9,
    computed_rows=10, num_unmasked=11,
    num_pages=12, num_free_pages=13, num_indexed_pages=14, num_evicted_pages=15, prefix_hits=16,
    prefix_misses=17, canvas_hits=18, canvas_misses=19, drift=CacheDrift(),
)  # fmt: skip


def test_stats_of_several_engines_add_up_and_drift_counts_by_rows():
    seen = CacheDrift(
        probe_forwards=1, rows_compared=10, flip_rate=0.5, mean_kl=1.0, max_kl=2.0,
        mean_confidence_error=0.1, max_confidence_error=0.2,
    )  # fmt: skip
    more = replace(seen, rows_compared=30, flip_rate=0.1, max_kl=1.0)
    parts = [replace(STATS, drift=seen), replace(STATS, drift=more), STATS]
    total = EngineStats.total(parts)
    assert (total.num_finished, total.num_steps, total.canvas_misses) == (3, 21, 57)
    assert (total.drift.rows_compared, total.drift.probe_forwards) == (40, 2)
    assert total.drift.flip_rate == pytest.approx(0.2)
    assert (total.drift.max_kl, total.drift.max_confidence_error) == (2.0, 0.2)
    assert EngineStats.total([]).drift == CacheDrift()
    assert EngineStats.total([STATS]) == STATS


def test_metrics_name_the_replica_where_there_are_several():
    metrics = ServerMetrics()
    assert "starr_engine_steps_total 7.0" in metrics.render({"": STATS}).decode()
    fleet = FleetState(
        replicas=(
            ReplicaState(name="0", num_requests=3, outstanding_tokens=44, stats=STATS),
        ),
        num_starting=1, num_draining=0, num_waiting=6, num_deaths=1, num_reruns=2,
    )  # fmt: skip
    assert fleet.is_ready and not replace(fleet, replicas=()).is_ready
    lines = metrics.render({"0": STATS}, fleet).decode().splitlines()
    for line in (
        'starr_engine_steps_total{replica="0"} 7.0',
        'starr_engine_requests_total{end="failed",replica="0"} 2.0',
        'starr_replicas{phase="ready"} 1.0',
        'starr_replicas{phase="starting"} 1.0',
        'starr_replicas{phase="draining"} 0.0',
        "starr_replica_deaths_total 1.0",
        "starr_replica_reruns_total 2.0",
        "starr_requests_without_replica 6.0",
        'starr_replica_requests{replica="0"} 3.0',
        'starr_replica_outstanding_tokens{replica="0"} 44.0',
    ):
        assert line in lines, line
    assert not any(line.startswith("starr_engine_drift_flip_rate{") for line in lines)


def test_flags_of_replicas_go_with_replicas(capsys: pytest.CaptureFixture):
    flags = ("--min-replicas", "--max-replicas", "--gpus-per-replica", "--cpus-per-replica")
    for flag, value in (*((flag, "1") for flag in flags), ("--ray-address", "auto")):
        assert main(["serve", "--port", "0", flag, value]) == 2
        assert f"{flag} goes with --replicas" in capsys.readouterr().err


def test_the_flags_reach_the_replicas(monkeypatch: pytest.MonkeyPatch):
    asked: list[Any] = []

    def note(engine: Any, replicas: Replicas) -> None:
        asked.extend([engine, replicas])
        raise ConfigError("noted")

    monkeypatch.setattr(application, "serve_replicas", note)
    monkeypatch.setattr("starr_engine.serve.logs.set_up_logging", lambda level: None)
    words = ["serve", "--port", "0", "--model", "tiny-sdar", "--replicas", "3", "--min-replicas",
             "2", "--max-replicas", "5", "--cpus-per-replica", "2", "--gpus-per-replica", "0.5",
             "--ray-address", "auto", "--upscale-delay", "1", "--downscale-delay", "2",
             "--batch-size", "5"]  # fmt: skip
    assert main(words) == 2
    engine, replicas = asked
    assert (engine.model, engine.max_num_requests) == ("tiny-sdar", 5)
    assert replicas == Replicas(
        count=3, min_count=2, max_count=5, cpus_per_replica=2, gpus_per_replica=0.5,
        address="auto", upscale_delay_s=1, downscale_delay_s=2,
    )  # fmt: skip


def test_without_ray_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr("starr_engine.cli.serve.find_spec", lambda name: None)
    assert main(["serve", "--port", "0", "--replicas", "2"]) == 2
    assert "pip install 'starr-engine[serve,ray]'" in capsys.readouterr().err


class FakeEngine:
    """As much of an engine as the app asks before a request comes."""

    def __init__(self, num_ready: int) -> None:
        self.num_ready = num_ready
        self.error: Exception | None = None

    def default_sampling_params(self) -> SamplingParams:
        return SamplingParams()

    async def fleet(self) -> FleetState:
        if self.error is not None:
            raise self.error
        replicas = tuple(
            ReplicaState(name=str(i), num_requests=0, outstanding_tokens=0, stats=STATS)
            for i in range(self.num_ready)
        )
        return FleetState(
            replicas=replicas, num_starting=1, num_draining=1, num_waiting=0, num_deaths=0,
            num_reruns=0,
        )  # fmt: skip


def test_the_server_is_ready_while_one_replica_is_and_healthy_while_others_may_come():
    async def statuses(engine: Any) -> list[int]:
        app = make_app(engine, ServeConfig(served_model="m"), engine)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            answers = [await http.get(path) for path in ("/health", "/ready", "/metrics")]
        assert app.state.engine_died.is_set() == (engine.error is not None)
        return [answer.status_code for answer in answers]

    assert asyncio.run(statuses(FakeEngine(1))) == [200, 200, 200]
    assert asyncio.run(statuses(FakeEngine(0))) == [200, 503, 200]
    dead = FakeEngine(0)
    dead.error = EngineDeadError("none could be started")
    assert asyncio.run(statuses(dead)) == [503, 503, 503]
    assert as_api_error(ReplicaDiedError("it has died")).code == "replica_died"
