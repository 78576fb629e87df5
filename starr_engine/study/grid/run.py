"""Run a study, resumably: a cell that is finished is on the disk."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from starr_engine.distributed import Workers
from starr_engine.offline.journal import Journal, journal_path
from starr_engine.offline.signals import StopSignals
from starr_engine.study.grid.axes import Cell
from starr_engine.study.grid.bench import MakeBench, open_bench
from starr_engine.study.grid.cell_runner import CellOptions, CellRunner
from starr_engine.study.grid.job import StudyInterruptedError, StudyJob, check_job
from starr_engine.study.grid.measure import StoppedError
from starr_engine.study.grid.on_workers import MeasureCells, cell_workers
from starr_engine.study.grid.results import CellResult, as_result, compare_all, parse_results

FORMAT_VERSION: Final = 1
"""Of the results; raised when their fields change their meaning."""

OnCell = Callable[[CellResult, int, int], None]
"""Takes a result, compared if its baseline is there, its number from 1, and the number of cells
that are known of."""

MoreCells = Callable[[Sequence[CellResult]], Sequence[tuple[Cell, Cell]]]
"""From the results of all cells so far, compared, to further cells with their baselines."""


def run_study(
    job: StudyJob,
    *,
    make_bench: MakeBench = open_bench,
    workers: Workers | None = None,
    on_cell: OnCell = lambda result, number, total: None,
    more_cells: MoreCells = lambda results: (),
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
        more_cells: Asked when all cells have a result, and again until it names no cell that is
            new. From equal results it must name equal cells.

    Returns:
        All results of the folder, those of other grids behind.

    Raises:
        ConfigError: If the results cannot be written or continued, or Ray is missing or has too
            little for the workers.
        StudyInterruptedError: On SIGINT or SIGTERM; the journal stays.
    """
    check_job(job)
    known: dict[str, CellResult] = {}

    def keep(result: CellResult) -> None:
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
        again = {name for name, each in known.items() if job.retry_failed and each.error}
        asked: dict[str, tuple[int, Cell, str]] = {}
        wanted = list(job.cells())
        options = CellOptions(make_bench=make_bench, code=job.code, with_drift=job.with_drift)
        missing = _missing(wanted, known, again)
        with _measuring(missing, options, workers) as measure_cells, StopSignals() as stop:
            while wanted:
                for cell, baseline in wanted:
                    asked[cell.id] = (len(asked) + 1, cell, baseline.id)
                try:
                    for found in measure_cells(missing, lambda: stop.received is not None):
                        number, _, baseline_id = asked[found.cell.id]
                        again.discard(found.cell.id)
                        known[found.cell.id] = replace(found, baseline=baseline_id)
                        journal.append(known[found.cell.id].to_line())
                        journal.sync()
                        pair = dict.fromkeys((found.cell.id, baseline_id))
                        told = compare_all(known[each] for each in pair if each in known)
                        on_cell(told[0], number, len(asked))
                except StoppedError:
                    assert stop.received is not None
                    raise StudyInterruptedError(stop.received, journal) from None
                named = more_cells(compare_all(_asked_results(known, asked)))
                wanted = [(cell, baseline) for cell, baseline in named if cell.id not in asked]
                missing = _missing(wanted, known, again)
        results = _in_order(known, asked, published)

        def write(path: Path) -> None:
            path.write_bytes(b"".join(each.to_line() for each in results))

        journal.publish(write)
    return results


def _missing(
    wanted: Sequence[tuple[Cell, Cell]], known: Mapping[str, CellResult], again: Container[str]
) -> list[Cell]:
    """Cells without a result, or whose result is to be another."""
    return [cell for cell, _ in wanted if cell.id not in known or cell.id in again]


@contextlib.contextmanager
def _measuring(
    cells: Sequence[Cell], options: CellOptions, workers: Workers | None
) -> Iterator[MeasureCells]:
    if workers is None or not cells:
        runners: list[CellRunner] = []

        def measure_here(
            cells: Sequence[Cell], is_stopped: Callable[[], bool]
        ) -> Iterator[CellResult]:
            if not runners:  # one for all, whose model stays loaded
                runners.append(CellRunner(options, is_stopped))
            return map(runners[0].run, cells)

        yield measure_here
        return
    with cell_workers(cells, workers, options) as measure_cells:
        yield measure_cells


def _asked_results(
    known: Mapping[str, CellResult], asked: Mapping[str, tuple[int, Cell, str]]
) -> list[CellResult]:
    # Another grid may compare a cell with another one than the run that measured it.
    return [replace(known[name], baseline=baseline) for name, (_, _, baseline) in asked.items()]


def _in_order(
    known: Mapping[str, CellResult],
    asked: Mapping[str, tuple[int, Cell, str]],
    published: Sequence[str],
) -> list[CellResult]:
    """All results, compared, in an order that does not depend on when each was finished."""
    kept = [name for name in published if name in known and name not in asked]
    stray = sorted(set(known) - set(asked) - set(kept))
    others = (known[name] for name in (*kept, *stray))
    return compare_all([*_asked_results(known, asked), *others])
