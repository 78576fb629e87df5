"""The offline batch: every row of a file through the engine, into a file in the same order."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from starr_engine.config import EngineConfig
from starr_engine.errors import ConfigError, StarrError
from starr_engine.offline.journal import Journal, Settings, check_output
from starr_engine.offline.json_lines import json_line
from starr_engine.offline.loop import RowLoop
from starr_engine.offline.parquet import write_parquet
from starr_engine.offline.progress import Progress
from starr_engine.offline.reader import is_parquet, open_source
from starr_engine.offline.rows import SAMPLING_FIELDS, RawRow
from starr_engine.offline.runner import BatchLLM, OutputRow
from starr_engine.offline.shards import write_shards
from starr_engine.offline.signals import StopSignals
from starr_engine.offline.source import Source
from starr_engine.offline.summary import BatchSummary, Tally
from starr_engine.params import SamplingParams

FORMAT_VERSION: Final = 1
"""Of the journal; raised when its rows change their meaning."""

WINDOW_PER_REQUEST: Final = 16
"""Default window: this many rows for each request that runs at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchJob:
    """One input, one output file, and what the rows ask for unless they say otherwise."""

    input: Path | Source
    """``.jsonl`` or ``.parquet``; a folder of one of the two; a data set saved to a folder; or rows
    of any other origin."""

    output: Path
    """``.jsonl`` or ``.parquet``; need not be of the input's kind."""

    params: SamplingParams = field(default_factory=SamplingParams)

    resume: bool = False
    """Continue the journal of an interrupted run; without one, start."""

    overwrite: bool = False
    """Replace an existing output when the new one is complete."""

    window: int | None = None
    """Most rows between the first unfinished one and the last one given to the engine. Bounds
    memory; a larger window keeps the batch full when one row takes much longer than others.
    None is 16 times the engine's ``max_num_requests``."""

    shard_rows: int | None = None
    """Make the output a folder of files with so many rows each, and a manifest; None: one file."""

    progress: bool = False
    """Show a progress bar on standard error."""


class BatchInterruptedError(StarrError):
    """A signal stopped the job.

    Args:
        received: The signal.
        kept: What is there, and how to go on.
    """

    def __init__(self, received: signal.Signals, kept: str) -> None:
        super().__init__(f"stopped by {received.name}; {kept}")
        self.exit_code = 128 + received
        """What a shell expects of a process that a signal ended."""


def check_job(job: BatchJob) -> None:
    """Check what can be checked before a model is loaded.

    Raises:
        ConfigError: If the input or the output cannot be used.
    """
    if job.params.trace:
        raise ConfigError("a batch's output has no place for traces; use LLM.generate")
    is_parquet(job.output)
    if isinstance(job.input, Path):
        _check_input(job.input, job.output)
    for name in ("window", "shard_rows"):
        value = getattr(job, name)
        if value is not None and value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")
    check_output(job.output, resume=job.resume, overwrite=job.overwrite)


def _check_input(path: Path, output: Path) -> None:
    if path.is_dir():
        if output.resolve().parent == path.resolve():
            raise ConfigError(f"the output {output} is in the input's folder; choose another one")
        return
    if not path.is_file():
        raise ConfigError(f"the input {path} does not exist")
    is_parquet(path)
    if output.exists() and output.samefile(path):
        raise ConfigError(f"the output {output} is the input; choose another name")


def run_batch_job(llm: BatchLLM, job: BatchJob) -> BatchSummary:
    """Run every row of ``job.input`` and write ``job.output``.

    A row that cannot run gets its own ``error``; all others finish. Rows are in the journal as
    soon as they and all rows before them are finished; the output gets its name at the end.

    Raises:
        ConfigError: If the input or the output cannot be used.
        CapacityError: If the disk is full; the journal holds what was finished.
        BatchInterruptedError: On SIGINT or SIGTERM; likewise.
    """
    config = llm.engine.config

    def run(task: RowTask) -> None:
        loop = RowLoop(
            llm,
            defaults=job.params,
            window=job.window or WINDOW_PER_REQUEST * config.max_num_requests,
            emit=task.emit,
            is_stopped=task.is_stopped,
        )
        loop.run(task.rows, start=task.start)

    return write_output(job, config, run)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowTask:
    """The rows of a job that are not in its journal yet."""

    rows: Iterator[RawRow]
    start: int
    """Index of the first one."""

    end: int
    """Index of the last one, + 1."""

    emit: Callable[[OutputRow], None]
    """Writes a finished row; to be called in the order of the rows."""

    is_stopped: Callable[[], bool]
    """Whether a signal has come."""


def write_output(
    job: BatchJob,
    config: EngineConfig,
    run: Callable[[RowTask], None],
    note: Callable[[], str] = str,
) -> BatchSummary:
    """Write ``job.output`` with whatever runs its rows.

    Args:
        job: What to do.
        config: Of the engines.
        run: Emits a row for each that it is given, or fewer once it is stopped.
        note: What the progress bar shows besides.

    Raises:
        ConfigError, CapacityError, BatchInterruptedError: As :func:`run_batch_job`.
    """
    check_job(job)
    source = open_source(job.input) if isinstance(job.input, Path) else job.input
    tally = Tally()
    with Journal(
        job.output,
        _settings(config, job.params, source),
        resume=job.resume,
        overwrite=job.overwrite,
        on_row=partial(tally.add, resumed=True),
    ) as journal:
        with (
            StopSignals() as stop,
            Progress(source.num_rows, tally, enabled=job.progress, note=note) as bar,
        ):

            def emit(columns: OutputRow) -> None:
                journal.append(json_line(columns))
                tally.add(columns)
                bar.update()

            tally.start_clock()
            bar.start()
            start = journal.num_rows
            try:
                run(
                    RowTask(
                        rows=source.rows(start),
                        start=start,
                        end=source.num_rows,
                        emit=emit,
                        is_stopped=lambda: stop.received is not None,
                    )
                )
            finally:
                journal.sync()
        if journal.num_rows < source.num_rows and stop.received is not None:
            raise BatchInterruptedError(
                stop.received,
                f"{journal.path} holds {journal.num_rows} complete rows: run the same command with "
                f"--resume to continue",
            )
        _publish(journal, job, source)
    return tally.summary(job.output)


def _publish(journal: Journal, job: BatchJob, source: Source) -> None:
    if journal.num_rows != source.num_rows:
        raise StarrError(
            f"{source.name} changed while the job ran: it had {source.num_rows} rows and gave "
            f"{journal.num_rows}; run the job again with --overwrite"
        )
    if job.shard_rows is not None:
        shard_rows = job.shard_rows
        journal.publish(lambda folder: write_shards(folder, journal, source, shard_rows))
    elif is_parquet(job.output):
        journal.publish(lambda path: write_parquet(path, journal.rows, source))
    else:
        journal.publish()


def _settings(config: EngineConfig, params: SamplingParams, source: Source) -> Settings:
    """What the rows depend on. Batch size, threads and pages are absent: they change no token."""
    asked = {name: getattr(params, name) for name in SAMPLING_FIELDS}
    return {
        "journal_format": FORMAT_VERSION,
        "input": source.fingerprint,
        "model": config.model,
        "dtype": config.dtype,
        "quantization": config.quantization,
        "device": config.device,
        **{name: dict(each) if isinstance(each, Mapping) else each for name, each in asked.items()},
    }
