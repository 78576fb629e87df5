"""Jobs over Ray's actors end as the one-process job does, whatever happens to a worker."""

from __future__ import annotations

import os
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from starr_engine.config import EngineConfig
from starr_engine.distributed import Workers, run_batch
from starr_engine.distributed.batch import run_workers
from starr_engine.distributed.pool import Finished, Pool, Ready
from starr_engine.distributed.worker import EngineWorker
from starr_engine.errors import CapacityError, ConfigError, StarrError
from starr_engine.offline.job import BatchInterruptedError, BatchJob, run_batch_job
from starr_engine.offline.journal import journal_path
from starr_engine.offline.summary import BatchSummary
from starr_engine.params import SamplingParams
from tests.helpers.fake_llm import FakeLLM
from tests.helpers.ray_jobs import (
    num_lines,
    prompts,
    raw_rows,
    read_rows,
    small_ray,
    wait_for,
    write_rows,
)
from tests.helpers.ray_workers import (
    CRASHER,
    KILLER,
    BrokenWorker,
    DyingWorker,
    FakeWorker,
    FatalWorker,
    SlowWorker,
)
from tests.helpers.word_models import write_word_model

pytestmark = pytest.mark.slow

ENGINE = EngineConfig(model="fake", device="cpu", max_num_requests=4)
TWO = Workers(count=2)


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    with small_ray():
        yield


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> list[Pool]:
    """Those that jobs of the test make."""
    made: list[Pool] = []
    enter = Pool.__enter__

    def remember(self: Pool) -> Pool:
        made.append(self)
        return enter(self)

    monkeypatch.setattr(Pool, "__enter__", remember)
    return made


def in_one_process(folder: Path, source: Path) -> bytes:
    output = folder / "whole.jsonl"
    run_batch_job(FakeLLM(), BatchJob(input=source, output=output))
    return output.read_bytes()


def run(
    folder: Path, rows: list[dict], worker_class: type[EngineWorker] = FakeWorker, **job: Any
) -> tuple[BatchSummary, list[dict]]:
    source = write_rows(folder / "in.jsonl", rows)
    output = folder / "out.jsonl"
    summary = run_workers(BatchJob(input=source, output=output, **job), ENGINE, TWO, worker_class)
    return summary, read_rows(output)


@contextmanager
def when_journal_has(output: Path, num_rows: int, act: Any) -> Iterator[None]:
    """Act beside the job, as soon as it has got so far."""

    def watch() -> None:
        wait_for(lambda: num_lines(journal_path(output)) >= num_rows or output.exists(), "rows")
        act()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def test_two_workers_give_the_file_that_one_process_gives(
    tmp_path: Path, capfd: pytest.CaptureFixture
):
    rows = prompts(400)
    rows[7]["prompt"] = ""
    rows[8] = {"id": 8, "prompt": "x", "max_tokens": 0, "carried": [1, None]}
    rows[9] |= {"n": 3, "temperature": 0.5}
    source = write_rows(tmp_path / "in.jsonl", rows)
    whole = in_one_process(tmp_path, source)
    summary, output = run(tmp_path, rows, window=40, progress=True)
    shown = capfd.readouterr().err
    assert "400/400" in shown and "/2 workers: " in shown
    assert (tmp_path / "out.jsonl").read_bytes() == whole
    assert (summary.num_rows, summary.num_errors, summary.num_resumed) == (400, 2, 0)
    assert len(output[9]["samples"]) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "in.jsonl", "out.jsonl", "whole.jsonl",
    ]  # fmt: skip


def test_real_engines_give_the_tokens_of_one(tmp_path: Path):
    from starr_engine import LLM

    model = write_word_model(tmp_path / "model")
    params = SamplingParams(max_tokens=16, block_length=8, temperature=0.7, cache="dual")
    source = write_rows(tmp_path / "in.jsonl", prompts(60))
    engine = EngineConfig(model=str(model), device="cpu", max_num_requests=4)
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    run_batch_job(
        LLM(model=str(model), device="cpu", max_num_requests=4, num_threads=1),
        BatchJob(input=source, output=one, params=params),
    )
    run_batch(BatchJob(input=source, output=two, params=params), engine, TWO)
    assert two.read_bytes() == one.read_bytes()


def test_a_killed_worker_costs_no_row(tmp_path: Path, pools: list[Pool]):
    rows = prompts(300)
    whole = in_one_process(tmp_path, write_rows(tmp_path / "in.jsonl", rows))

    def kill() -> None:
        info = next(member.info for member in pools[0].members if member.info)
        killed.append(info.process_id)
        os.kill(info.process_id, signal.SIGKILL)

    killed: list[int] = []
    with when_journal_has(tmp_path / "out.jsonl", 30, kill):
        summary, _ = run(tmp_path, rows, SlowWorker)
    assert killed and summary.num_errors == 0
    assert max(member.key for member in pools[0].members) >= 2, "nobody took its place"
    assert (tmp_path / "out.jsonl").read_bytes() == whole


def test_a_row_that_kills_its_worker_twice_is_set_aside_with_the_reason(
    tmp_path: Path, pools: list[Pool]
):
    rows = prompts(120)
    expected = {30: "worker process has died", 60: "MemoryError: no such luck"}
    rows[30]["prompt"], rows[60]["prompt"] = f"a {KILLER}", f"a {CRASHER}"
    rows[30]["gold"] = 5
    summary, output = run(tmp_path, rows, FatalWorker)
    assert [row["id"] for row in output] == list(range(120))
    assert {row["id"] for row in output if row["error"]} == set(expected)
    for index, reason in expected.items():
        assert "ended the worker that ran it twice" in output[index]["error"]
        assert reason in output[index]["error"]
        assert "\n" not in output[index]["error"]
    assert output[30]["gold"] == 5
    assert "prompt" not in output[30]
    assert summary.num_errors == 2
    num_started = 1 + max(member.key for member in pools[0].members)
    assert 2 + 3 <= num_started <= 2 + 4, (
        "each row ends two workers, or both end the same one first"
    )


def test_a_full_disk_ends_the_job_with_what_was_written_and_resuming_completes_it(tmp_path: Path):
    rows = [{**row, "padding": "x" * 20_000} for row in prompts(300)]
    whole = in_one_process(tmp_path, write_rows(tmp_path / "in.jsonl", rows))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    job = BatchJob(input=tmp_path / "in.jsonl", output=tmp_path / "out.jsonl")
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 * 10**6, limits[1]))
    try:
        with pytest.raises(CapacityError, match=r"no space left.*--resume"):
            run_workers(job, ENGINE, TWO, FakeWorker)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    kept = num_lines(journal_path(tmp_path / "out.jsonl"))
    assert 0 < kept < 300
    summary, _ = run(tmp_path, rows, resume=True)
    assert summary.num_resumed == kept
    assert (tmp_path / "out.jsonl").read_bytes() == whole


def test_a_signal_stops_the_job_and_one_process_can_go_on_with_it(tmp_path: Path):
    rows = prompts(300)
    source = write_rows(tmp_path / "in.jsonl", rows)
    whole = in_one_process(tmp_path, source)
    output = tmp_path / "out.jsonl"
    handler = signal.getsignal(signal.SIGTERM)
    with (
        pytest.raises(BatchInterruptedError, match="--resume") as caught,
        when_journal_has(output, 20, lambda: os.kill(os.getpid(), signal.SIGTERM)),
    ):
        run(tmp_path, rows, SlowWorker)
    assert caught.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is handler
    engine = FakeLLM(model="fake")
    engine.engine.config = EngineConfig(model="fake", max_num_requests=4)
    summary = run_batch_job(engine, BatchJob(input=source, output=output, resume=True))
    assert 20 <= summary.num_resumed < 300
    assert output.read_bytes() == whole


def test_what_no_worker_can_do_ends_the_job_with_the_error_as_it_is(tmp_path: Path):
    with pytest.raises(ConfigError, match="no such model"):
        run(tmp_path, prompts(5), BrokenWorker)
    with pytest.raises(StarrError, match=r"died 3 times in a row while it loaded.*has died"):
        run(tmp_path, prompts(5), DyingWorker)


def test_more_than_there_is_is_refused_before_a_worker_starts(tmp_path: Path):
    source = write_rows(tmp_path / "in.jsonl", prompts(1))
    job = BatchJob(input=source, output=tmp_path / "out.jsonl")
    for engine, workers, problem in (
        (ENGINE, Workers(count=3, cpus_per_worker=1), "3 workers need 3 CPUs, of which Ray has 2"),
        (EngineConfig(device="cuda"), TWO, "2 GPUs, of which Ray has 0"),
        (EngineConfig(device="cuda:1"), TWO, "use device cuda instead of cuda:1"),
        (ENGINE, Workers(count=2, gpus_per_worker=0.5), "leave it out with device cpu"),
        (EngineConfig(device="cuda"), Workers(gpus_per_worker=0), "needs gpus_per_worker above 0"),
        (ENGINE, Workers(address="auto"), "connected to Ray already"),
    ):
        with pytest.raises(ConfigError, match=problem):
            run_workers(job, engine, workers, FakeWorker)
    assert not journal_path(job.output).exists()


def test_an_empty_input_gives_an_empty_output(tmp_path: Path):
    summary, rows = run(tmp_path, [])
    assert (summary.num_rows, rows) == (0, [])


def test_a_busy_worker_is_given_its_next_rows_before_it_has_run_dry():
    with Pool(
        1, {"num_cpus": 1}, FakeWorker, {"model": "fake", "max_num_requests": 4}, SamplingParams()
    ) as pool:
        (member,) = pool.members
        events = pool.wait(60.0)
        assert isinstance(events[0], Ready)
        pool.submit(member, raw_rows(0, 8))
        pool.submit(member, raw_rows(8, 9))
        first, second = pool.wait(60.0)[0], pool.wait(60.0)[0]
        assert isinstance(first, Finished) and isinstance(second, Finished)
        assert 0 < len(first.rows) < 8, "the reply waited until the worker had nothing to do"
