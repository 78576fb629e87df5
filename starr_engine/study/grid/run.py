"""Run a study, resumably: a cell that is finished is on the disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from starr_engine.environment import environment
from starr_engine.errors import CapacityError, EngineDeadError, StarrError
from starr_engine.offline.journal import Journal, journal_path
from starr_engine.offline.signals import StopSignals
from starr_engine.params import Args
from starr_engine.study.grid.axes import Cell
from starr_engine.study.grid.bench import Bench, MakeBench, open_bench
from starr_engine.study.grid.job import StudyInterruptedError, StudyJob, check_job
from starr_engine.study.grid.measure import StoppedError, measure, warm_up
from starr_engine.study.grid.questions import ask
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
    on_cell: OnCell = lambda result, number, total: None,
    more_cells: MoreCells = lambda results: (),
) -> list[CellResult]:
    """Measure every cell that is not there yet, and write the results in the order of the grid.

    Each finished cell is appended to a journal beside the results and waited for until it is on
    the disk; a kill at any moment costs the cell that was running. Results hold the same numbers,
    those of time aside, however often the study was interrupted. A cell that cannot run, because
    its model refuses the cache or memory is short, is kept with the reason, and the others go on.

    Args:
        job: What is asked.
        make_bench: Loads a model.
        on_cell: Told every cell that this call finishes.
        more_cells: Asked when all cells have a result, and again until it names no cell that is
            new. From equal results it must name equal cells.

    Returns:
        All results of the folder, those of other grids behind.

    Raises:
        ConfigError: If the results cannot be written or continued.
        StudyInterruptedError: On SIGINT or SIGTERM; the journal stays.
    """
    check_job(job)
    known: dict[str, CellResult] = {}

    def keep(result: CellResult) -> None:
        if not (job.retry_failed and result.error is not None):
            known[result.cell.id] = result

    if job.resume and job.output.exists():
        for result in parse_results(job.output):
            keep(result)
    with (
        Journal(
            job.output,
            {"results_format": FORMAT_VERSION},
            resume=job.resume,
            overwrite=job.overwrite,
            on_row=lambda row: keep(as_result(row, journal_path(job.output))),
        ) as journal,
        StopSignals() as stop,
    ):
        runner = _Runner(job, make_bench, lambda: stop.received is not None)
        asked: dict[str, None] = {}
        cells = list(job.cells())
        while cells:
            total = len(asked) + len(cells)
            for cell, baseline in cells:
                asked[cell.id] = None
                is_new = cell.id not in known
                if is_new:
                    try:
                        known[cell.id] = replace(runner.run(cell), baseline=baseline.id)
                    except StoppedError:
                        assert stop.received is not None
                        raise StudyInterruptedError(stop.received, journal) from None
                    journal.append(known[cell.id].to_line())
                    journal.sync()
                # Another grid may compare it with another cell than the run that measured it.
                known[cell.id] = replace(known[cell.id], baseline=baseline.id)
                if is_new:
                    pair = dict.fromkeys((cell.id, baseline.id))
                    told = compare_all(known[each] for each in pair if each in known)
                    on_cell(told[0], len(asked), total)
            named = more_cells(compare_all(known[each] for each in asked))
            cells = [(cell, baseline) for cell, baseline in named if cell.id not in asked]
        first = [known.pop(each) for each in asked]
        results = compare_all([*first, *known.values()])

        def write(path: Path) -> None:
            path.write_bytes(b"".join(each.to_line() for each in results))

        journal.publish(write)
    return results


class _Runner:
    """Runs cells one by one; the model of the one before stays loaded."""

    def __init__(
        self, job: StudyJob, make_bench: MakeBench, is_stopped: Callable[[], bool]
    ) -> None:
        self._job = job
        self._make_bench = make_bench
        self._is_stopped = is_stopped
        self._environment: dict[str, Any] = {}
        self._opened: tuple[str, int, Args] | None = None
        self._bench: Bench | None = None
        self._load_error: StarrError | None = None
        self._warmed: set[str] = set()

    def run(self, cell: Cell) -> CellResult:
        """The result of a cell; its reason where it has none.

        Raises:
            StoppedError: If the user has stopped the study.
        """
        if self._is_stopped():
            raise StoppedError
        try:
            bench = self._open(cell)
            questions = ask(cell, bench.get_tokenizer, self._job.code)
            if str(cell.cache) not in self._warmed:
                warm_up(cell, questions, bench)
                self._warmed.add(str(cell.cache))
            measured = measure(
                cell,
                questions,
                bench,
                is_stopped=self._is_stopped,
                with_drift=self._job.with_drift,
            )
            return CellResult(
                cell=cell, baseline="", measured=measured, environment=self._environment
            )
        except (CapacityError, EngineDeadError, RuntimeError) as error:
            # What such an engine still holds is unknown: the next cell gets a new one.
            self._opened = self._bench = None
            failed = f"{type(error).__name__}: {error}"
        except StarrError as error:
            # The runner puts policy and prompt in front, which differ where the reason does not.
            cause = error.__cause__
            failed = str(cause if isinstance(cause, StarrError) else error)
        return CellResult(cell=cell, baseline="", error=failed, environment=self._environment)

    def _open(self, cell: Cell) -> Bench:
        wanted = (cell.model, cell.batch_size, cell.engine)
        if self._opened != wanted:
            self._bench = None  # its memory, before the next one takes its own
            self._warmed.clear()
            self._load_error = None
            self._opened = wanted
            try:
                self._bench = self._make_bench(*wanted)
            except StarrError as error:
                self._load_error = error  # the same for every cell of this model
            self._environment = environment()  # the engine has set the number of threads
        if self._load_error is not None:
            raise self._load_error
        assert self._bench is not None
        return self._bench
