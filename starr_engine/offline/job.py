"""The offline batch: every row of a file through the engine, into a file in the same order."""

from __future__ import annotations

import signal
from collections.abc import Mapping
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
from starr_engine.offline.reader import Source, is_parquet, open_source
from starr_engine.offline.rows import SAMPLING_FIELDS
from starr_engine.offline.runner import BatchLLM, OutputRow
from starr_engine.offline.signals import StopSignals
from starr_engine.offline.summary import BatchSummary, Tally
from starr_engine.params import SamplingParams

FORMAT_VERSION: Final = 1
"""Of the journal; raised when its rows change their meaning."""

WINDOW_PER_REQUEST: Final = 16
"""Default window: this many rows for each request that runs at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchJob:
    """One input file, one output file, and what the rows ask for unless they say otherwise."""

    input: Path
    """``.jsonl`` or ``.parquet``."""

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

    progress: bool = False
    """Show a progress bar on standard error."""


class BatchInterruptedError(StarrError):
    """A signal stopped the job; the journal holds what was finished.

    Args:
        received: The signal.
        journal: What it stopped.
    """

    def __init__(self, received: signal.Signals, journal: Journal) -> None:
        super().__init__(
            f"stopped by {received.name}; {journal.path} holds {journal.num_rows} complete rows: "
            f"run the same command with --resume to continue"
        )
        self.exit_code = 128 + received
        """What a shell expects of a process that a signal ended."""


def check_job(job: BatchJob) -> None:
    """Check what can be checked before a model is loaded.

    Raises:
        ConfigError: If the input or the output cannot be used.
    """
    if not job.input.is_file():
        raise ConfigError(f"the input {job.input} does not exist or is not a file")
    if job.params.trace:
        raise ConfigError("a batch's output has no place for traces; use LLM.generate")
    is_parquet(job.input)
    is_parquet(job.output)
    if job.output.exists() and job.output.samefile(job.input):
        raise ConfigError(f"the output {job.output} is the input; choose another name")
    if job.window is not None and job.window < 1:
        raise ConfigError(f"window must be at least 1, got {job.window}")
    check_output(job.output, resume=job.resume, overwrite=job.overwrite)


def run_batch_job(llm: BatchLLM, job: BatchJob) -> BatchSummary:
    """Run every row of ``job.input`` and write ``job.output``.

    A row that cannot run gets its own ``error``; all others finish. Rows are in the journal as
    soon as they and all rows before them are finished; the output gets its name at the end.

    Raises:
        ConfigError: If the input or the output cannot be used.
        CapacityError: If the disk is full; the journal holds what was finished.
        BatchInterruptedError: On SIGINT or SIGTERM; likewise.
    """
    check_job(job)
    source = open_source(job.input)
    tally = Tally()
    config = llm.engine.config
    with Journal(
        job.output,
        _settings(config, job.params, source),
        resume=job.resume,
        overwrite=job.overwrite,
        on_row=partial(tally.add, resumed=True),
    ) as journal:
        with StopSignals() as stop, Progress(source.num_rows, tally, enabled=job.progress) as bar:

            def emit(columns: OutputRow) -> None:
                journal.append(json_line(columns))
                tally.add(columns)
                bar.update()

            loop = RowLoop(
                llm,
                defaults=job.params,
                window=job.window or WINDOW_PER_REQUEST * config.max_num_requests,
                emit=emit,
                is_stopped=lambda: stop.received is not None,
            )
            tally.start_clock()
            bar.start()
            try:
                loop.run(source.rows(journal.num_rows), start=journal.num_rows)
            finally:
                journal.sync()
        if journal.num_rows < source.num_rows and stop.received is not None:
            raise BatchInterruptedError(stop.received, journal)
        _publish(journal, job, source)
    return tally.summary(job.output)


def _publish(journal: Journal, job: BatchJob, source: Source) -> None:
    if journal.num_rows != source.num_rows:
        raise StarrError(
            f"{job.input} changed while the job ran: it had {source.num_rows} rows and gave "
            f"{journal.num_rows}; run the job again with --overwrite"
        )
    if is_parquet(job.output):
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
