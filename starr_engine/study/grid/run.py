"""Run a study, resumably: a cell that is finished is on the disk."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from starr_engine.distributed import Workers
from starr_engine.offline.journal import Journal, journal_path
from starr_engine.offline.signals import StopSignals
from starr_engine.study.grid.axes import Cell
from starr_engine.study.grid.bench import MakeBench, open_bench
from starr_engine.study.grid.cell_runner import CellRunner
from starr_engine.study.grid.job import StudyInterruptedError, StudyJob, check_job
from starr_engine.study.grid.measure import StoppedError
from starr_engine.study.grid.on_workers import MeasureCells, cell_workers
from starr_engine.study.grid.results import CellResult, as_result, compare_all, parse_results

FORMAT_VERSION: Final = 1
"""Of the results; raised when their fields change their meaning."""

OnCell = Callable[[CellResult, int, int], None]
"""Takes a result, not yet compared, its number in the grid from 1, and the number of cells."""


def run_study(
    job: StudyJob,
    *,
    make_bench: MakeBench = open_bench,
    workers: Workers | None = None,
    on_cell: OnCell = lambda result, number, total: None,
) -> list[CellResult]:
    """Measure every cell that is not there yet, and write the results in the order of the grid.

    Each finished cell is appended to a journal beside the results and waited for until it is on
    the disk; a kill at any moment costs the cells that were running. However often the study was
    interrupted, and in whatever order cells were finished, the file has the same lines in the same
    order, but for what ``CellResult.untimed_line`` leaves out. A cell that cannot run, because
    its model refuses the cache or memory is short, is kept with the reason, and the others go on.

    Args:
        job: What is asked.
        make_bench: Loads a model.
        workers: Where cells are measured, several at once; None is this process, without Ray. A
            cell that ends two workers is kept with the reason. Times are then those of cells that
            run side by side, and say so; all else is as in one process.
        on_cell: Told every cell that this call finishes.

    Returns:
        All results of the folder, those of other grids behind.

    Raises:
        ConfigError: If the results cannot be written or continued, or Ray is missing or has too
            little for the workers.
        StudyInterruptedError: On SIGINT or SIGTERM; the journal stays.
    """
    check_job(job)
    asked = {cell.id: (number, cell, baseline.id)
             for number, (cell, baseline) in enumerate(job.cells(), 1)}  # fmt: skip
    known: dict[str, CellResult] = {}

    def keep(result: CellResult) -> None:
        is_tried_again = job.retry_failed and result.error is not None
        if not (is_tried_again and result.cell.id in asked):
            known[result.cell.id] = result

    if job.resume and job.output.exists():
        for result in parse_results(job.output):
            keep(result)
    published = list(known)
    with Journal(
        job.output,
        {"results_format": FORMAT_VERSION},
        resume=job.resume,
        overwrite=job.overwrite,
        on_row=lambda row: keep(as_result(row, journal_path(job.output))),
    ) as journal:
        missing = [cell for _, cell, _ in asked.values() if cell.id not in known]
        with _measuring(missing, make_bench, workers) as measure_cells, StopSignals() as stop:
            try:
                for found in measure_cells(missing, lambda: stop.received is not None):
                    number, _, baseline = asked[found.cell.id]
                    known[found.cell.id] = replace(found, baseline=baseline)
                    journal.append(known[found.cell.id].to_line())
                    journal.sync()
                    on_cell(known[found.cell.id], number, len(asked))
            except StoppedError:
                assert stop.received is not None
                raise StudyInterruptedError(stop.received, journal) from None
        results = _in_order(known, asked, published)

        def write(path: Path) -> None:
            path.write_bytes(b"".join(each.to_line() for each in results))

        journal.publish(write)
    return results


@contextlib.contextmanager
def _measuring(
    cells: Sequence[Cell], make_bench: MakeBench, workers: Workers | None
) -> Iterator[MeasureCells]:
    if workers is None or not cells:
        yield lambda cells, is_stopped: map(CellRunner(make_bench, is_stopped).run, cells)
        return
    with cell_workers(cells, workers, make_bench) as measure_cells:
        yield measure_cells


def _in_order(
    known: Mapping[str, CellResult],
    asked: Mapping[str, tuple[int, Cell, str]],
    published: Sequence[str],
) -> list[CellResult]:
    """All results, compared, in an order that does not depend on when each was finished."""
    # Another grid may compare a cell with another one than the run that measured it.
    own = [replace(known[name], baseline=baseline) for name, (_, _, baseline) in asked.items()]
    kept = [name for name in published if name in known and name not in asked]
    stray = sorted(set(known) - set(asked) - set(kept))
    return compare_all([*own, *(known[name] for name in (*kept, *stray))])
