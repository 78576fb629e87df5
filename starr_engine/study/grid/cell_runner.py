"""Runs cells one by one, and keeps the reason of those that cannot run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starr_engine.environment import environment
from starr_engine.errors import CapacityError, EngineDeadError, StarrError
from starr_engine.params import Args
from starr_engine.study.grid.axes import Cell
from starr_engine.study.grid.bench import Bench, MakeBench, open_bench
from starr_engine.study.grid.measure import StoppedError, measure, warm_up
from starr_engine.study.grid.questions import ask
from starr_engine.study.grid.results import CellResult
from starr_engine.study.published import CodeLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class CellOptions:
    """What holds for all cells of a study, and is no part of what a cell asks."""

    make_bench: MakeBench = open_bench
    """Loads a model."""

    code: CodeLimits | None = None
    """What programs may use that are answers; None runs none."""

    with_drift: bool = True
    """Measure the drift of approximate caches, in a second run of some problems."""


class CellRunner:
    """Runs cells; the model of the one before stays loaded.

    Args:
        options: Of all cells.
        is_stopped: Whether the user has stopped the study; asked between two steps.
    """

    def __init__(self, options: CellOptions, is_stopped: Callable[[], bool]) -> None:
        self._options = options
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
            questions = ask(cell, bench.get_tokenizer, self._options.code)
            if str(cell.cache) not in self._warmed:
                warm_up(cell, questions, bench)
                self._warmed.add(str(cell.cache))
            measured = measure(
                cell,
                questions,
                bench,
                is_stopped=self._is_stopped,
                with_drift=self._options.with_drift,
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
                self._bench = self._options.make_bench(*wanted)
            except StarrError as error:
                self._load_error = error  # the same for every cell of this model
            self._environment = environment()  # the engine has set the number of threads
        if self._load_error is not None:
            raise self._load_error
        assert self._bench is not None
        return self._bench
