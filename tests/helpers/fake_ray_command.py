"""``python -m tests.helpers.fake_ray_command``: the real command line over slow fake workers."""

from __future__ import annotations

import sys

from starr_engine.cli import batch
from starr_engine.cli.main import main
from starr_engine.config import EngineConfig
from starr_engine.distributed import Workers
from starr_engine.distributed.batch import run_workers
from starr_engine.offline.job import BatchJob
from starr_engine.offline.summary import BatchSummary
from tests.helpers.fake_command import make_params
from tests.helpers.ray_workers import SlowWorker


def run_slowly(job: BatchJob, engine: EngineConfig, workers: Workers) -> BatchSummary:
    return run_workers(job, engine, workers, SlowWorker)


if __name__ == "__main__":
    batch.run_batch = run_slowly
    batch.sampling_params = make_params
    sys.exit(main())
