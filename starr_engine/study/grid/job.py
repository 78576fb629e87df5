"""What a study is asked to do, and the ways in which it can end early."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from starr_engine.errors import ConfigError, StarrError
from starr_engine.offline.journal import Journal, check_output
from starr_engine.study.grid.axes import Cell
from starr_engine.study.grid.results import RESULTS
from starr_engine.study.published import CodeLimits


class Cells(Protocol):
    """What is measured; a ``Grid`` is such, and so is a chosen list."""

    def cells(self) -> Iterator[Cell]:
        """All cells, of each group the baseline first."""

    def baseline_of(self, cell: Cell) -> Cell:
        """The cell that ``cell`` is compared with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyJob:
    """Which cells, and where their results go."""

    grids: tuple[Cells, ...]
    """Cells that several have in common are measured once."""

    folder: Path
    """Of the results and the report; made if it is missing."""

    resume: bool = False
    """Keep the cells that are there, finished study or not, and run those that are missing."""

    overwrite: bool = False
    """Replace an existing study when the new one is complete."""

    retry_failed: bool = False
    """Run cells again that ended with a reason instead of numbers."""

    code: CodeLimits | None = None
    """What programs may use that are answers to HumanEval or MBPP; None runs none."""

    with_drift: bool = True
    """Measure the drift of approximate caches, in a second run of some of each cell's problems."""

    @property
    def output(self) -> Path:
        """The file of results."""
        return self.folder / RESULTS

    def cells(self) -> Iterator[tuple[Cell, Cell]]:
        """Every cell with its baseline, each once."""
        seen: set[str] = set()
        for grid in self.grids:
            for cell in grid.cells():
                if cell.id not in seen:
                    seen.add(cell.id)
                    yield cell, grid.baseline_of(cell)


class StudyInterruptedError(StarrError):
    """A signal stopped the study; the journal holds what was finished."""

    def __init__(self, received: signal.Signals, journal: Journal) -> None:
        super().__init__(
            f"stopped by {received.name}; {journal.path} holds {journal.num_rows} cells: run the "
            "same command with --resume to continue"
        )
        self.exit_code = 128 + received
        """What a shell expects of a process that a signal ended."""


def check_job(job: StudyJob) -> None:
    """Check what can be checked before a model is loaded, and make the folder.

    Raises:
        ConfigError: If there is nothing to run, or the results cannot be written.
    """
    if not job.grids:
        raise ConfigError("a study needs a grid")
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the folder {job.folder} cannot be made: {error}") from error
    if job.output.exists() and not (job.resume or job.overwrite):
        raise ConfigError(
            f"{job.folder} holds a finished study; pass --resume to add the cells that it lacks, "
            "--overwrite to start anew, or choose another folder"
        )
    check_output(job.output, resume=job.resume, overwrite=job.overwrite or job.resume)
