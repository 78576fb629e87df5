"""The actor: cells of a study in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

from starr_engine.params import Args
from starr_engine.study.grid.axes import Cell
from starr_engine.study.grid.bench import Bench, MakeBench
from starr_engine.study.grid.cell_runner import CellOptions, CellRunner
from starr_engine.study.grid.results import CellResult


class CellWorker:
    """Runs cells one by one, with the model of the one before still loaded.

    Args:
        options: Of all cells.
        placed: Options of every engine that follow from where it runs: its device, and the number
            of threads, unless a cell says it.
        folder: Where the study was started: relative files and models are found from there.
    """

    def __init__(self, options: CellOptions, placed: Args, folder: str) -> None:
        if os.path.isdir(folder):  # on another machine it may be missing, and names may be global
            os.chdir(folder)
        self._runner = CellRunner(
            replace(options, make_bench=_placed(options.make_bench, placed)), lambda: False
        )

    def load(self) -> int:
        """Load what every cell needs.

        Returns:
            The process's id.
        """
        import starr_engine.llm  # noqa: F401

        return os.getpid()

    def work(self, cells: Sequence[tuple[int, Cell]]) -> list[tuple[int, CellResult]]:
        """Run cells.

        Args:
            cells: With their numbers.

        Returns:
            The result of each.
        """
        return [(number, self._runner.run(cell)) for number, cell in cells]


def _placed(make_bench: MakeBench, placed: Args) -> MakeBench:
    def make(model: str, batch_size: int, options: Args) -> Bench:
        merged: Mapping[str, object] = {**options, **placed}
        if options.get("num_threads") is not None:
            merged = {**merged, "num_threads": options["num_threads"]}
        return make_bench(model, batch_size, merged)  # type: ignore[arg-type]

    return make
