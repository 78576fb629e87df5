"""Cells of a study on several workers, each a Ray actor."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from starr_engine.config import EngineConfig
from starr_engine.distributed import Workers
from starr_engine.environment import environment
from starr_engine.errors import ConfigError
from starr_engine.study.grid.axes import Cell
from starr_engine.study.grid.cell_handout import CellHandout
from starr_engine.study.grid.cell_runner import CellOptions
from starr_engine.study.grid.cell_worker import CellWorker
from starr_engine.study.grid.measure import StoppedError
from starr_engine.study.grid.results import CellResult

if TYPE_CHECKING:
    from starr_engine.distributed.pool import Pool

WAIT_S: Final = 0.2
"""So often, at least, the driver looks whether a signal has come."""

MeasureCells = Callable[[Sequence[Cell], Callable[[], bool]], Iterator[CellResult]]
"""Gives each cell's result once, in any order. The second argument says whether the user has
stopped the study; then it raises StoppedError."""


@contextlib.contextmanager
def cell_workers(
    cells: Sequence[Cell], workers: Workers, options: CellOptions
) -> Iterator[MeasureCells]:
    """Workers that measure cells, for the time being.

    Args:
        cells: What they are for, at least one.
        workers: How many, and with what.
        options: Of all cells.

    Raises:
        ConfigError: If Ray is not installed or has too little for the workers, or if cells need
            different devices.
    """
    if find_spec("ray") is None:
        raise ConfigError("several workers need Ray: pip install 'starr-engine[ray]'")
    from starr_engine.distributed.pool import Pool
    from starr_engine.distributed.session import connected, engine_options, resources

    engine = _engine_of(cells)
    with connected(workers, engine):
        wanted = resources(workers, engine)
        engine_fields = engine_options(engine, wanted)
        placed = {name: engine_fields[name] for name in ("device", "num_threads")}
        with Pool(workers.count, wanted, CellWorker, options, placed, os.getcwd()) as pool:
            yield lambda cells, is_stopped: _measure(pool, cells, is_stopped)


def _engine_of(cells: Sequence[Cell]) -> EngineConfig:
    """What every engine of a study has in common, of which Ray must know."""
    made = [
        EngineConfig.from_options(**engine)
        for engine in {str(dict(cell.engine)): dict(cell.engine) for cell in cells}.values()
    ]
    if len({(each.device, each.tensor_parallel_size) for each in made}) > 1:
        raise ConfigError(
            "the grids have engines of different device or tensor_parallel_size, and workers are "
            "all alike; run them one after the other into one folder, with --resume"
        )
    # The threads of a cell that says them are its own; those of others follow from the workers.
    return replace(made[0], num_threads=None)


def _measure(
    pool: Pool, cells: Sequence[Cell], is_stopped: Callable[[], bool]
) -> Iterator[CellResult]:
    from starr_engine.distributed.pool import Died, Finished

    handout = CellHandout(cells)
    while not handout.is_done:
        if is_stopped():
            raise StoppedError
        for member in pool.members:
            if member.info and (number := handout.take(member.key)) is not None:
                pool.submit(member, [(number, cells[number])])
        for event in pool.wait(WAIT_S):
            if isinstance(event, Finished):
                [(_, found)] = event.rows
                handout.finish(event.member.key)
                yield _marked(found, len(pool.members))
            elif isinstance(event, Died):
                logging.getLogger(__name__).warning(
                    "worker %d has ended, and another one takes its place: %s",
                    event.member.place,
                    event.reason,
                )
                lost = handout.lose(event.member.key, is_blameless=event.is_blameless)
                if lost is not None:
                    reason = f"this cell ended the worker that ran it twice: {event.reason}"
                    yield CellResult(
                        cell=cells[lost], baseline="", error=reason, environment=environment()
                    )


def _marked(found: CellResult, num_workers: int) -> CellResult:
    """With the number of workers in what it says of time."""
    if found.measured is None:
        return found
    timing = replace(found.measured.timing, side_by_side=num_workers)
    return replace(found, measured=replace(found.measured, timing=timing))
