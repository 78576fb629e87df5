"""Measure a recorded cell again, and say whether it gives what was recorded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from starr_engine.errors import ConfigError, StarrError
from starr_engine.study.grid.axes import Cell
from starr_engine.study.grid.bench import Bench, MakeBench
from starr_engine.study.grid.cell_runner import CellOptions, CellRunner
from starr_engine.study.grid.results import CellResult, Measurement

PROBLEMS_PER_DIFFERENCE: Final = 20
"""On another processor or version of torch, or with another number of threads, one problem of so
many may differ, and at least one: sums are rounded in another order there, and where two tokens are
equally likely the other one may win. In the same place nothing may differ."""


class DifferentResultError(StarrError):
    """A cell does not give what was recorded."""

    exit_code: Final = 1
    """As of ``diff``: 2, as of all other errors, would say that nothing was compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A cell's recorded numbers beside those of its second run."""

    recorded: CellResult
    again: CellResult

    is_same_place: bool
    """Processor, GPU, number of threads and torch are those that were recorded."""

    different: tuple[int, ...]
    """Numbers of the problems whose outcome, forwards or output differ."""

    allowed: int
    """Most problems that may differ: none where the place is the same."""

    reasons: tuple[str, ...]
    """Why the second run does not give what was recorded; empty if it does."""

    def __str__(self) -> str:
        """One line for each number, and the verdict."""
        cell, old, new = self.recorded.cell, self.recorded.measured, self.again.measured
        assert old is not None
        lines = [f"{cell.id}  {cell.model}  {cell.task.name}  {cell.cache}  {cell.remasking}"]
        if new is not None:
            lines += [
                f"  accuracy {old.accuracy:.4f}, now {new.accuracy:.4f}; "
                f"NFE {old.nfe:.4f}, now {new.nfe:.4f}; rows {old.rows:.1f}, now {new.rows:.1f}",
                f"  {len(self.different)} of {len(old.solved)} problems differ; with "
                f"{'the same' if self.is_same_place else 'another'} processor, torch "
                f"{'and' if self.is_same_place else 'or'} number of threads {self.allowed} may",
            ]
        last = f"DIFFERENT: {'; '.join(self.reasons)}" if self.reasons else "the same"
        return "\n".join([*lines, f"  {last}"])


def find_cells(results: Sequence[CellResult], ids: Sequence[str]) -> list[CellResult]:
    """The results of some cells.

    Args:
        results: Of a study.
        ids: Their ids, or what these begin with.

    Raises:
        ConfigError: If an id is that of no cell or of several, or its cell has no numbers.
    """
    found = []
    for name in ids:
        matching = [each for each in results if each.cell.id.startswith(name)]
        if len(matching) != 1 or not name:
            raise ConfigError(
                f"{len(matching)} cells have an id that begins with {name!r}; cells.csv of the "
                "report lists all ids"
            )
        if matching[0].measured is None:
            raise ConfigError(f"cell {name} has no numbers to compare with: {matching[0].error}")
        found += matching
    return found


def rerun(
    recorded: Sequence[CellResult],
    *,
    num_threads: int | None = None,
    options: CellOptions | None = None,
) -> Iterator[Verdict]:
    """Measure cells again, in this process.

    Args:
        recorded: With numbers.
        num_threads: Of the engine, where the cell does not say; None is what was recorded.
        options: Of all cells; None is the defaults.

    Yields:
        The verdict of each.

    Raises:
        ConfigError: If the file of a cell's task is not what it was.
    """
    options = options or CellOptions()
    for each in recorded:
        _check_file(each.cell)
        threads = num_threads or each.environment.get("num_threads")
        make_bench = _with_threads(options.make_bench, threads)
        runner = CellRunner(replace(options, make_bench=make_bench), lambda: False)
        yield compare(each, runner.run(each.cell))


def compare(recorded: CellResult, again: CellResult) -> Verdict:
    """What differs between a cell's two runs, times aside, and whether that much may."""
    old, new = recorded.measured, again.measured
    assert old is not None
    is_same_place = _place(recorded.environment) == _place(again.environment)
    different = () if new is None else _different(old, new)
    allowed = 0 if is_same_place else max(1, len(old.solved) // PROBLEMS_PER_DIFFERENCE)
    if new is None:
        reasons = [f"it does not run: {again.error}"]
    elif old.fingerprint != new.fingerprint:
        reasons = ["the prompts are others"]
    else:
        reasons = _reasons(old, new, different, allowed)
    return Verdict(
        recorded=recorded,
        again=again,
        is_same_place=is_same_place,
        different=different,
        allowed=allowed,
        reasons=tuple(reasons),
    )


def _reasons(
    old: Measurement, new: Measurement, different: Sequence[int], allowed: int
) -> list[str]:
    reasons = []
    if old.label != new.label:
        reasons.append(f"the cache was {old.label} and is {new.label}")
    if len(different) > allowed:
        reasons.append(f"problems {', '.join(map(str, different))} differ")
    if not different:
        # What the problems gave is the same, so must be what is computed from all of them.
        for name in ("accuracy", "nfe", "tpf", "rows", "refresh_share", "output_tokens"):
            before, now = getattr(old, name), getattr(new, name)
            if before != now:
                reasons.append(f"{name} was {before} and is {now}")
    return reasons


def _different(old: Measurement, new: Measurement) -> tuple[int, ...]:
    if len(old.solved) != len(new.solved):
        return tuple(range(max(len(old.solved), len(new.solved))))
    before = zip(old.solved, old.forwards, old.outputs, strict=True)
    now = zip(new.solved, new.forwards, new.outputs, strict=True)
    return tuple(at for at, (a, b) in enumerate(zip(before, now, strict=True)) if a != b)


def _place(environment: Mapping[str, Any]) -> tuple[object, ...]:
    """What decides how sums are rounded."""
    versions = environment.get("versions", {})
    return (
        environment.get("cpu"),
        environment.get("gpu"),
        environment.get("num_threads"),
        versions.get("torch"),
    )


def _with_threads(make_bench: MakeBench, num_threads: int | None) -> MakeBench:
    def make(model: str, batch_size: int, options: Mapping[str, Any]) -> Bench:
        return make_bench(model, batch_size, {"num_threads": num_threads, **options})

    return make


def _check_file(cell: Cell) -> None:
    if not cell.task.file:
        return
    try:
        digest = hashlib.sha256(Path(cell.task.file).read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise ConfigError(
            f"the task's file {cell.task.file} cannot be read: {error}; run this where the study "
            "was started"
        ) from error
    if digest != cell.task.digest:
        raise ConfigError(f"the task's file {cell.task.file} has changed since it was measured")
