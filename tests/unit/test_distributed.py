"""What workers get, what is shown of them, and which flags ask for them; without starting Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray

from starr_engine.cli import batch
from starr_engine.cli.main import main
from starr_engine.config import EngineConfig
from starr_engine.distributed import Workers, run_batch
from starr_engine.distributed import batch as distributed_batch
from starr_engine.distributed import monitor as monitoring
from starr_engine.distributed.handout import Handout
from starr_engine.distributed.monitor import Monitor
from starr_engine.distributed.pool import Died, Finished, Member
from starr_engine.distributed.session import engine_options, resources
from starr_engine.distributed.worker import WorkerInfo, capacity
from starr_engine.errors import ConfigError
from starr_engine.offline.job import BatchJob
from starr_engine.offline.rows import RawRow


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"count": 0}, "workers must be an integer >= 1, got 0"),
        ({"count": True}, "workers must be an integer >= 1, got True"),
        ({"cpus_per_worker": 0}, "cpus_per_worker must be an integer >= 1, got 0"),
        ({"cpus_per_worker": 1.5}, "cpus_per_worker must be an integer >= 1, got 1.5"),
        ({"gpus_per_worker": 2}, "from 0 to 1, as an engine runs on one GPU, got 2"),
        ({"gpus_per_worker": float("nan")}, "from 0 to 1"),
        ({"address": ""}, "must name a Ray cluster"),
    ],
)
def test_impossible_workers_are_refused(options: dict[str, Any], problem: str):
    with pytest.raises(ConfigError, match=problem):
        Workers(**options)


def test_all_problems_of_workers_are_named_at_once():
    with pytest.raises(ConfigError, match=r"workers must.*; cpus_per_worker must.*; gpus_per"):
        Workers(count=-1, cpus_per_worker=-1, gpus_per_worker=-1)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Resources of a Ray that is not there."""
    there: dict[str, float] = {"CPU": 8}
    monkeypatch.setattr(ray, "cluster_resources", lambda: there)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True}] * int(there.get("nodes", 1)))
    return there


def test_a_worker_gets_a_gpu_where_the_device_is_one(cluster: dict[str, float]):
    auto, cpu, cuda = (EngineConfig(device=name) for name in ("auto", "cpu", "cuda"))
    assert resources(Workers(count=2), auto) == {"num_cpus": 4, "num_gpus": 0}
    cluster["GPU"] = 2
    assert resources(Workers(count=2), auto) == {"num_cpus": 1, "num_gpus": 1}
    assert resources(Workers(count=2), cuda) == {"num_cpus": 1, "num_gpus": 1}
    assert resources(Workers(count=2), cpu) == {"num_cpus": 4, "num_gpus": 0}
    shared = Workers(count=4, gpus_per_worker=0.5, cpus_per_worker=2)
    assert resources(shared, auto) == {"num_cpus": 2, "num_gpus": 0.5}
    with pytest.raises(ConfigError, match="3 workers need 3 GPUs, of which Ray has 2"):
        resources(Workers(count=3), cuda)
    cluster["nodes"] = 2
    assert resources(Workers(count=2), cpu) == {"num_cpus": 1, "num_gpus": 0}


def test_a_split_model_gets_a_gpu_or_a_share_of_the_cores_for_each_rank(cluster: dict[str, float]):
    split = EngineConfig(tensor_parallel_size=2)
    on_cpu = resources(Workers(count=2), split)
    assert on_cpu == {"num_cpus": 4, "num_gpus": 0}
    assert engine_options(split, on_cpu)["num_threads"] == 2
    assert engine_options(split, {"num_cpus": 1, "num_gpus": 0})["num_threads"] == 1
    cluster["GPU"] = 4
    assert resources(Workers(count=2), split) == {"num_cpus": 1, "num_gpus": 2}
    with pytest.raises(ConfigError, match="3 workers need 6 GPUs, of which Ray has 4"):
        resources(Workers(count=3), split)
    with pytest.raises(ConfigError, match="a GPU for each rank"):
        resources(Workers(count=2, gpus_per_worker=1), split)


def test_a_cluster_may_still_grow(cluster: dict[str, float], caplog: pytest.LogCaptureFixture):
    wanted = resources(Workers(count=9, cpus_per_worker=1, address="auto"), EngineConfig())
    assert wanted == {"num_cpus": 1, "num_gpus": 0}
    assert "9 workers need 9 CPUs, of which Ray has 8; waiting" in caplog.text


def test_an_engine_without_a_gpu_has_as_many_threads_as_cores(tmp_path: Path):
    on_cpu, on_gpu = {"num_cpus": 3.0, "num_gpus": 0.0}, {"num_cpus": 3.0, "num_gpus": 1.0}
    options = engine_options(EngineConfig(), on_cpu)
    assert (options["device"], options["num_threads"]) == ("cpu", 3)
    assert engine_options(EngineConfig(num_threads=2), on_cpu)["num_threads"] == 2
    options = engine_options(EngineConfig(device="cuda"), on_gpu)
    assert (options["device"], options["num_threads"]) == ("cuda", None)
    assert EngineConfig(**options) == EngineConfig(device="cuda")


def test_a_model_in_a_folder_is_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    wanted = {"num_cpus": 1.0, "num_gpus": 0.0}
    assert engine_options(EngineConfig(model="mine"), wanted)["model"] == str(tmp_path / "mine")
    assert engine_options(EngineConfig(model="tiny-sdar"), wanted)["model"] == "tiny-sdar"


class FakeMetric:
    """Adds up what the real one would export."""

    values: dict[tuple[str, str], float]

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...] = ()) -> None:
        self._name = name
        assert description.endswith(".")

    def inc(self, value: float, tags: dict[str, str]) -> None:
        key = self._name, tags["worker"]
        self.values[key] = self.values.get(key, 0) + value

    def set(self, value: float, tags: dict[str, str] | None = None) -> None:
        self.values[self._name, (tags or {}).get("worker", "")] = value


def finished(*tokens: int) -> list[tuple[int, dict[str, object]]]:
    return [
        (i, {"error": None, "nfe": 2, "tpf": 1.0, "token_ids": [0] * count})
        for i, count in enumerate(tokens)
    ]


def members_of(count: int) -> list[Member]:
    info = WorkerInfo(config=EngineConfig(), process_id=1)
    return [Member(key=i, place=i, actor=None, info=info) for i in range(count)]


@pytest.fixture
def metrics(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], float]:
    values: dict[tuple[str, str], float] = {}
    monkeypatch.setattr(FakeMetric, "values", values, raising=False)
    monkeypatch.setattr(monitoring, "Counter", FakeMetric)
    monkeypatch.setattr(monitoring, "Gauge", FakeMetric)
    return values


def test_metrics_and_line_count_the_events_of_each_worker(metrics: dict[tuple[str, str], float]):
    members = members_of(2)
    rows = iter([RawRow(index=i) for i in range(6)])
    handout = Handout(rows, start=0, end=6, num_workers=2, window=9, emit=lambda columns: None)
    monitor = Monitor(2)
    handout.take(1, 3)
    monitor.show(members, handout)
    monitor.hear(Finished(members[0], finished(3, 4)))
    monitor.hear(Finished(members[0], [(9, {"error": "no"})]))
    monitor.hear(Finished(members[1], finished(5)))
    monitor.hear(Died(members[1], "gone", False))
    members[1] = Member(key=2, place=1, actor=None)
    handout.lose(1, "gone")
    monitor.show(members, handout)
    assert metrics == {
        ("starr_batch_rows", "0"): 3, ("starr_batch_rows", "1"): 1,
        ("starr_batch_errors", "0"): 1,
        ("starr_batch_tokens", "0"): 7, ("starr_batch_tokens", "1"): 5,
        ("starr_batch_forwards", "0"): 4, ("starr_batch_forwards", "1"): 2,
        ("starr_batch_worker_deaths", "1"): 1,
        ("starr_batch_held_rows", "0"): 0, ("starr_batch_held_rows", "1"): 0,
        ("starr_batch_ready_workers", ""): 1, ("starr_batch_set_aside_rows", ""): 0,
    }  # fmt: skip
    note = monitor.note()
    assert note.startswith("1/2 workers: ") and note.endswith(", 1 died")
    assert note.count("+") == 1


def test_of_many_workers_the_line_shows_the_slowest_and_the_fastest(
    metrics: dict[tuple[str, str], float],
):
    monitor = Monitor(30)
    assert monitor.note() == "0/30 workers: 0 to 0"


def test_flags_for_workers_go_with_workers(tmp_path: Path, capsys: pytest.CaptureFixture):
    source = tmp_path / "in.jsonl"
    source.write_text('{"prompt": "x"}\n')
    words = ["batch", "--input", str(source), "--output", str(tmp_path / "out.jsonl")]
    for flag, value in (("--ray-address", "auto"), ("--gpus-per-worker", "1")):
        assert main([*words, flag, value]) == 2
        assert f"{flag} goes with --workers" in capsys.readouterr().err
    assert main([*words, "--workers", "0"]) == 2
    assert "the number of workers must be an integer >= 1" in capsys.readouterr().err


def test_the_flags_reach_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[Any] = []

    def note(job: BatchJob, engine: EngineConfig, workers: Workers) -> None:
        asked.extend([job, engine, workers])
        raise ConfigError("noted")

    monkeypatch.setattr(batch, "run_batch", note)
    source = tmp_path / "in.jsonl"
    source.write_text('{"prompt": "x"}\n')
    words = ["batch", "--input", str(source), "--output", str(tmp_path / "out.jsonl"),
             "--workers", "3", "--cpus-per-worker", "2", "--gpus-per-worker", "0.5",
             "--ray-address", "auto", "--batch-size", "5", "--shard-rows", "7"]  # fmt: skip
    assert main(words) == 2
    job, engine, workers = asked
    assert (job.shard_rows, engine.max_num_requests) == (7, 5)
    assert workers == Workers(count=3, cpus_per_worker=2, gpus_per_worker=0.5, address="auto")


def test_without_ray_the_job_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(distributed_batch, "find_spec", lambda name: None)
    job = BatchJob(input=tmp_path / "in.jsonl", output=tmp_path / "out.jsonl")
    with pytest.raises(ConfigError, match=r"pip install 'starr-engine\[ray\]'"):
        run_batch(job)


def test_a_worker_has_more_rows_than_run_at_once():
    assert [capacity(size) for size in (1, 4, 16)] == [3, 9, 36]
