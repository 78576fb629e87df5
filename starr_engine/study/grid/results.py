"""What a cell gives, and the file that keeps it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

from starr_engine.errors import ConfigError
from starr_engine.offline.journal import journal_path
from starr_engine.offline.json_lines import json_line, parse_line
from starr_engine.study.grid.axes import Cell
from starr_engine.study.grid.significance import mcnemar, ratio_interval
from starr_engine.study.intervals import Interval, mean, wilson_interval

RESULTS: Final = "results.jsonl"
"""Name of the file in a study's folder; one line for each cell, in the order of the grid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What another run would measure anew."""

    wall_s: float
    """From the first request to the last output, without loading and warm-up."""

    tokens_per_s: float
    """Generated tokens, EOS and what follows left out, per second."""

    latency_p50_s: float
    latency_p95_s: float
    """From a request's place in the batch to its last token."""

    mean_batch: float
    """Requests per forward of the engine: below the batch size where the last ones run alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What the cell took at most."""

    kv_bytes: int
    """Pages of keys and values in use at once."""

    device_bytes: int | None
    """CUDA memory that tensors took, weights included; None on a CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The numbers of one cell."""

    label: str
    """``exact``, or ``approximate: <why>``."""

    fingerprint: str
    """Of the prompts."""

    accuracy: float
    accuracy_interval: Interval
    """Wilson's, of 95 %."""

    nfe: float
    """Mean forwards per request."""

    nfe_interval: Interval

    tpf: float
    """Unmasked positions of all requests / forwards of all requests."""

    rows: float
    """Mean token rows computed per request, over all its forwards."""

    refresh_share: float
    """Forwards that computed all live rows to reuse them / all forwards."""

    prompt_tokens: float
    """Mean per request."""

    output_tokens: float
    """Mean per request, EOS and what follows left out."""

    drift: Mapping[str, float | int | None] | None
    """As ``CacheDrift``, from probed steps of some of the problems, run once more; None for an
    exact cache, and where the job does not ask for it."""

    solved: str
    """``1`` or ``0`` for each problem."""

    forwards: tuple[int, ...]
    """NFE of each problem."""

    outputs: tuple[str, ...]
    """A short hash of each output's token ids."""

    timing: Timing
    memory: Memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A cell against its baseline, on the same problems."""

    gained: int
    """Problems that only the cell solves."""

    lost: int
    """Problems that only the baseline solves."""

    p_value: float
    """Of accuracy; see ``mcnemar``."""

    same_outputs: float
    """Share of problems with identical token ids."""

    fewer_forwards: float
    """Forwards of the baseline / forwards of the cell."""

    fewer_forwards_interval: Interval
    """See ``ratio_interval``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellResult:
    """A finished cell: its numbers, or why there are none."""

    cell: Cell
    baseline: str
    """Id of the cell it is compared with."""

    measured: Measurement | None = None
    error: str | None = None
    compared: Comparison | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    """Machine, versions, commit and date."""

    def to_line(self) -> bytes:
        """One line of the file."""
        return json_line(
            {
                "id": self.cell.id,
                "setting": self.cell.to_plain(),
                "baseline": self.baseline,
                "measured": None if self.measured is None else asdict(self.measured),
                "error": self.error,
                "compared": None if self.compared is None else asdict(self.compared),
                "environment": self.environment,
            }
        )

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """The result of a line.

        Raises:
            ValueError: If it is none. Or KeyError or TypeError.
        """
        measured, compared = plain["measured"], plain["compared"]
        made = cls(
            cell=Cell.from_plain(plain["setting"]),
            baseline=plain["baseline"],
            measured=None if measured is None else _measurement(measured),
            error=plain["error"],
            compared=None if compared is None else Comparison(**_tuples(compared)),
            environment=plain["environment"],
        )
        if made.cell.id != plain["id"]:
            raise ValueError(f"id {plain['id']} is not that of its setting")
        return made


def read_results(folder: Path) -> list[CellResult]:
    """The finished cells of a study, complete or still running.

    Raises:
        ConfigError: If there are none or a line is broken.
    """
    path = folder / RESULTS
    found: dict[str, CellResult] = {}
    if path.exists():
        found = {each.cell.id: each for each in parse_results(path)}
    if journal_path(path).exists():
        found |= {each.cell.id: each for each in parse_results(journal_path(path), is_open=True)}
    if not found:
        raise ConfigError(f"{folder} holds no results of a study")
    return compare_all(found.values())


def parse_results(path: Path, *, is_open: bool = False) -> list[CellResult]:
    """All lines of a file of results.

    Args:
        path: The file.
        is_open: Whether its last line may still be on its way.

    Raises:
        ConfigError: If a line is broken.
    """
    lines = path.read_bytes().splitlines(keepends=True)
    rows = [parse_line(line) for line in lines]
    if is_open and rows and rows[-1] is None:
        rows.pop()
    return [as_result(row, path) for row in rows]


def as_result(row: Mapping[str, Any] | None, path: Path) -> CellResult:
    """The result that a line holds.

    Args:
        row: The line's object; None if it has none.
        path: Of the file, for messages.

    Raises:
        ConfigError: If it is no result.
    """
    try:
        if row is None:
            raise ValueError("a line that is no JSON object")
        return CellResult.from_plain(row)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} holds what is no result of a study ({type(error).__name__}: {error}); move "
            "it away, or start anew with --overwrite"
        ) from error


def compare_all(results: Iterable[CellResult]) -> list[CellResult]:
    """The results, each with its comparison; None where its baseline has no numbers.

    Where the scorer is ``agreement``, what counts as solved follows from the baseline, too.
    """
    listed = list(results)
    by_id = {each.cell.id: each.measured for each in listed}
    listed = [_judge(each, by_id.get(each.baseline)) for each in listed]
    by_id = {each.cell.id: each.measured for each in listed}
    return [
        replace(each, compared=_compare(each.measured, by_id.get(each.baseline))) for each in listed
    ]


def _judge(own: CellResult, base: Measurement | None) -> CellResult:
    """The result with the baseline's outputs as the right ones, if that is how it is scored."""
    found = own.measured
    if own.cell.task.scorer != "agreement" or found is None:
        return own
    if base is None or base.fingerprint != found.fingerprint:
        return replace(own, measured=None, error="the baseline has no outputs to agree with")
    same = [a == b for a, b in zip(found.outputs, base.outputs, strict=True)]
    share = mean(same)
    judged = replace(
        found,
        solved="".join("1" if each else "0" for each in same),
        accuracy=share,
        accuracy_interval=wilson_interval(share, len(same)),
    )
    return replace(own, measured=judged)


def _compare(own: Measurement | None, base: Measurement | None) -> Comparison | None:
    if own is None or base is None or own.fingerprint != base.fingerprint:
        return None
    pairs = list(zip(own.solved, base.solved, strict=True))
    gained, lost = pairs.count(("1", "0")), pairs.count(("0", "1"))
    same = [a == b for a, b in zip(own.outputs, base.outputs, strict=True)]
    return Comparison(
        gained=gained,
        lost=lost,
        p_value=mcnemar(gained, lost),
        same_outputs=sum(same) / len(same),
        fewer_forwards=sum(base.forwards) / sum(own.forwards),
        fewer_forwards_interval=ratio_interval(base.forwards, own.forwards),
    )


def _measurement(plain: Mapping[str, Any]) -> Measurement:
    made = {"timing": Timing(**plain["timing"]), "memory": Memory(**plain["memory"])}
    return Measurement(**{**_tuples(plain), **made})


def _tuples(plain: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value
            for name, value in plain.items()}  # fmt: skip
