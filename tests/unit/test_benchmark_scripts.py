"""The speed benchmarks run from end to end at sizes of a second, so that they do not rot."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import (
    bench_batch_scaling,
    bench_batching,
    bench_engine_overhead,
    bench_growth,
    bench_recommend,
    bench_scheduler,
    bench_server,
)
from benchmarks.arrival_simulation import Arrival, Machine, simulate
from benchmarks.gpu import bench_shapes
from tools.result_tables import server, tables_of


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    def run(main: Callable[[], None], *flags: str) -> dict[str, Any]:
        output = tmp_path / "result.json"
        monkeypatch.setattr(sys, "argv", ["bench", *flags, "--output", str(output)])
        main()
        found: dict[str, Any] = json.loads(output.read_text())
        assert found["environment"]["versions"]["torch"]
        return found

    return run


@pytest.mark.parametrize("shape", bench_shapes.SHAPES)
def test_the_gpu_sweep_runs_every_shape_tiny_on_a_cpu(run, shape):
    found = run(
        bench_shapes.main, shape, "--device", "cpu", "--size", "tiny", "--batches", "1", "3", "64",
        "--tokens-per-step", "1", "4", "--prompt-len", "16", "--max-tokens", "16",
        "--kv-memory", "300KB", "--peak-bandwidth", "10", "--peak-compute", "0.1",
    )  # fmt: skip
    fits = [row for row in found["rows"] if row["fits"]]
    assert [(row["tokens_per_step"], row["batch"]) for row in fits] == [
        (1, 1),
        (1, 3),
        (4, 1),
        (4, 3),
    ]
    for row in fits:
        assert row["result"]["tpf"] == row["tokens_per_step"]
        assert row["result"]["mean_batch"] == row["batch"]
        assert row["profile"]["roofline"]["block_steps"]["share"] > 0


def test_batching_counts_the_same_tokens_in_every_mode(run):
    found = run(
        bench_batching.main, "--tiny", "--requests", "5", "--batch", "2", "--max-blocks", "2",
        "--repeats", "1",
    )  # fmt: skip
    dense, static, continuous = found["rows"]
    assert dense["tokens"] == static["tokens"] == continuous["tokens"]
    assert static["computed_rows"] == continuous["computed_rows"] < dense["computed_rows"]
    assert continuous["steps"] <= static["steps"] <= dense["steps"]


def test_batch_scaling_fills_every_batch(run):
    found = run(bench_batch_scaling.main, "--tiny", "--batches", "1", "2", "--repeats", "1")
    assert [row["result"]["mean_batch"] for row in found["rows"]] == [1.0, 2.0]


def test_growth_times_steps_inside_a_block(run):
    found = run(
        bench_growth.main, "--requests", "1", "3", "--prompts", "32", "64", "--running", "2",
        "--steps", "2",
    )  # fmt: skip
    assert [row["requests"] for row in found["by_requests"]] == [1, 3] * 2
    assert set(found["growth"]) == {"dual", "block_causal"}


def test_the_overhead_is_measured_on_equal_outputs(tmp_path, monkeypatch):
    flags = ["--model", "random", "--tiny", "--repeats", "2", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["bench", *flags])
    bench_engine_overhead.main()
    found = json.loads((tmp_path / "engine_overhead_50m.json").read_text())
    assert [row["same_outputs"] for row in found["rows"]] == [1, 16]


def test_the_scheduler_simulation_finishes_every_request_in_every_mode(run):
    found = run(bench_scheduler.main, "--requests", "60", "--places", "4", "--loads", "0.5")
    assert [row["requests"] for row in found["rows"]] == [60] * 8
    at_once = {row["mode"]: row["seconds"] for row in found["rows"][:4]}
    assert at_once["static, dense"] > at_once["static"]
    assert at_once["static"] > at_once["continuous, refreshes coincide"]


def test_the_server_gives_as_many_tokens_as_the_engine_in_every_round(run):
    found = run(bench_server.main, "--model", "tiny-llada", "--requests", "18", "--repeats", "2")
    assert [row["way"] for row in found["rows"]] == list(bench_server.WAYS)
    bare, _, *over_http = found["rows"]
    assert bare["losses"] == [0.0, 0.0]
    assert all(row["median_client_cpu_s"] > 0 for row in over_http)
    assert server(found).count(" % to ") == 3


def arrival(number: int, steps: list[int]) -> Arrival:
    return Arrival(arrival=number, due_s=0.0, canvas=10, block=4, steps=steps)


def test_simulated_steps_take_what_the_machine_says() -> None:
    machine = Machine(weights_s=1.0, row_s=0.25, read_s=0.5, pair_s=0.0625)
    assert machine.step_s([]) == 1.0
    assert machine.step_s([(4, 10)]) == 1.0 + 5.0  # more to read than to compute
    assert machine.step_s([(40, 40)]) == 10.0 + 100.0


@pytest.mark.parametrize(("dense", "last"), [(False, 4), (True, 8)])
def test_a_dense_batch_computes_finished_requests_to_its_end(dense: bool, last: int) -> None:
    machine = Machine(weights_s=0.0, row_s=1.0)
    report = simulate(
        [arrival(0, [1]), arrival(1, [2]), arrival(2, [0])],
        places=2, max_rows=100, ridge_rows=0, static=True, dense=dense, machine=machine,
    )  # fmt: skip
    assert report.step_s == [20, 8, last, 10]
    assert report.end_s == [28, 28 + last, 38 + last]


def test_a_recommendation_is_measured_again_on_problems_that_did_not_choose_it(run, tmp_path):
    found = run(
        bench_recommend.main, "--models", "tiny-sdar", "--sets", "sorting", "--objectives",
        "throughput", "--num-prompts", "2", "--num-fresh", "3", "--max-loss", "1",
    )  # fmt: skip
    [row] = found["rows"]
    assert row["fresh"]["setting"] == row["recommendation"]["recommended"]["setting"]
    assert row["recommendation"]["prompts"]["count"] == 2
    (tmp_path / "recommend.json").write_text(json.dumps(found))
    [table] = tables_of("recommend.md", tmp_path).values()
    assert "| `tiny-sdar` | `sorting` | throughput |" in table
