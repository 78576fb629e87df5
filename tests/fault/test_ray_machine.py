"""A machine of the cluster goes down in the middle of a job."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from starr_engine.config import EngineConfig
from starr_engine.distributed import Workers
from starr_engine.distributed.batch import run_workers
from starr_engine.offline.job import BatchJob, run_batch_job
from starr_engine.offline.journal import journal_path
from tests.helpers.fake_llm import FakeLLM
from tests.helpers.ray_jobs import num_lines, prompts, wait_for, write_rows
from tests.helpers.ray_workers import SlowWorker

pytestmark = pytest.mark.slow

STORE_BYTES = 80 * 2**20


def test_a_lost_machine_costs_no_row_and_blames_none(tmp_path: Path):
    """The second of two; nothing takes its place, so the rest of the job is the first one's."""
    rows = prompts(300)
    source = write_rows(tmp_path / "in.jsonl", rows)
    whole, output = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    run_batch_job(FakeLLM(), BatchJob(input=source, output=whole))
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "object_store_memory": STORE_BYTES,
                        "include_dashboard": False},
    )  # fmt: skip
    try:
        machine = cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)

        def go_down() -> None:
            wait_for(lambda: num_lines(journal_path(output)) >= 30 or output.exists(), "rows")
            cluster.remove_node(machine, allow_graceful=False)

        thread = threading.Thread(target=go_down)
        thread.start()
        engine = EngineConfig(model="fake", device="cpu", max_num_requests=4)
        workers = Workers(count=2, address=cluster.address)
        summary = run_workers(BatchJob(input=source, output=output), engine, workers, SlowWorker)
        thread.join()
        assert not ray.is_initialized(), "the job's own connection stays open"
    finally:
        cluster.shutdown()
    assert summary.num_errors == 0
    assert output.read_bytes() == whole.read_bytes()
