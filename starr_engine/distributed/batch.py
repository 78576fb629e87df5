"""The distributed job: the files of the one-process job, with many engines behind them."""

from __future__ import annotations

import time
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from starr_engine.config import EngineConfig
from starr_engine.distributed.handout import Handout
from starr_engine.distributed.options import Workers
from starr_engine.distributed.worker import EngineWorker, WorkerInfo, capacity
from starr_engine.errors import ConfigError
from starr_engine.offline.job import (
    WINDOW_PER_REQUEST,
    BatchInterruptedError,
    BatchJob,
    RowTask,
    check_job,
    write_output,
)
from starr_engine.offline.signals import StopSignals
from starr_engine.offline.summary import BatchSummary

if TYPE_CHECKING:
    from starr_engine.distributed.monitor import Monitor
    from starr_engine.distributed.pool import Member, Pool

WAIT_S: Final = 0.2
"""So often, at least, the driver looks whether a signal has come."""

SHOW_INTERVAL_S: Final = 0.5
"""So often the state of all workers is looked at, for the terminal and the metrics."""

CALLS_PER_WORKER: Final = 2
"""One that runs, and one that follows it without a round trip in between."""


def run_batch(
    job: BatchJob, engine: EngineConfig | None = None, workers: Workers | None = None
) -> BatchSummary:
    """Run every row of ``job.input`` on several engines and write ``job.output``.

    Files, resuming, errors of rows and tokens are those of
    :func:`~starr_engine.offline.job.run_batch_job`; a job that one of the two began the other can
    resume. Input and output are read and written here, so workers need no shared folder, but for a
    model that is one. A row whose worker dies runs again, alone in a worker; if that dies too, the
    row gets an ``error``.

    Args:
        job: What to do.
        engine: Of each worker; None takes the defaults.
        workers: How many, and with what; None is one.

    Raises:
        ConfigError: If Ray is not installed or has too little for the workers, or if the input,
            the output, the model or an option cannot be used.
        CapacityError: If the disk is full; the journal holds what was finished.
        BatchInterruptedError: On SIGINT or SIGTERM; likewise.
        StarrError: If workers die again and again while they load the model.
    """
    return run_workers(job, engine or EngineConfig(), workers or Workers(), EngineWorker)


def run_workers(
    job: BatchJob, engine: EngineConfig, workers: Workers, worker_class: type[EngineWorker]
) -> BatchSummary:
    """:func:`run_batch` with actors of another class."""
    if find_spec("ray") is None:
        raise ConfigError("several workers need Ray: pip install 'starr-engine[ray]'")
    from starr_engine.distributed.monitor import Monitor
    from starr_engine.distributed.pool import Pool
    from starr_engine.distributed.session import connected, engine_options, resources

    check_job(job)
    with connected(workers, engine):
        wanted = resources(workers, engine)
        options = engine_options(engine, wanted)
        with Pool(workers.count, wanted, worker_class, options, job.params) as pool:
            config = _first_config(pool)
            monitor = Monitor(workers.count)
            window = job.window or WINDOW_PER_REQUEST * config.max_num_requests * workers.count
            return write_output(
                job,
                # What names the model in the journal is what the user gave.
                replace(config, model=engine.model),
                lambda task: _run(task, window, pool, monitor),
                note=monitor.note,
            )


def _first_config(pool: Pool) -> EngineConfig:
    """Of the first engine that is there; all of them have the same."""
    with StopSignals() as stop:
        while not (infos := [member.info for member in pool.members if member.info]):
            if stop.received is not None:
                raise BatchInterruptedError(stop.received, "no worker had loaded its model yet")
            pool.wait(WAIT_S)
    first: WorkerInfo = infos[0]
    return first.config


def _run(task: RowTask, window: int, pool: Pool, monitor: Monitor) -> None:
    from starr_engine.distributed.pool import Died, Finished

    handout = Handout(
        task.rows,
        start=task.start,
        end=task.end,
        num_workers=len(pool.members),
        window=window,
        emit=task.emit,
    )
    next_show = 0.0
    while not task.is_stopped():
        if time.monotonic() >= next_show:
            monitor.show(pool.members, handout)
            next_show = time.monotonic() + SHOW_INTERVAL_S
        for member in pool.members:
            if member.info:
                _feed(handout, pool, member, capacity(member.info.config.max_num_requests))
        if handout.is_done:
            return
        for event in pool.wait(WAIT_S):
            if isinstance(event, Finished):
                for index, columns in event.rows:
                    handout.finish(event.member.key, index, columns)
            elif isinstance(event, Died):
                handout.lose(event.member.key, event.reason, is_blameless=event.is_blameless)
            monitor.hear(event)


def _feed(handout: Handout, pool: Pool, member: Member, limit: int) -> None:
    """Keep calls in the worker's queue as long as it has rows."""
    while len(member.calls) < CALLS_PER_WORKER:
        rows = handout.take(member.key, limit)
        if not rows and not handout.num_held(member.key):
            return
        pool.submit(member, rows)
