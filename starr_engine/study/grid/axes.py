"""What a study varies: the choices of each axis, one cell of the grid, and the grid."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Literal, Self, cast

from starr_engine.cache.base import CACHE_POLICIES
from starr_engine.config import EngineConfig
from starr_engine.decoding.base import REMASKING_POLICIES
from starr_engine.errors import ConfigError, RequestError
from starr_engine.params import Args, ArgValue, SamplingParams
from starr_engine.registry import unknown_name
from starr_engine.sampling_checks import is_int
from starr_engine.study.problem_sets import PROBLEM_SETS

Scorer = Literal["exact", "contains", "number", "task", "agreement"]
"""``exact``: the text is a reference, up to white space; ``contains``: it holds one; ``number``:
its last number is the reference's; ``task``: a shipped task's own scorer. ``agreement``, for rows
without references: the token ids are those of the baseline; accuracy is then the share of these."""

NO_SHARING: Final[Args] = {"canvas_cache": 0, "prefix_caching": False}
"""Every request computes its own rows, so that neither problems nor repeats share any."""

_OWN_FIELDS: Final = (
    "max_tokens", "block_length", "remasking", "remasking_args", "cache", "cache_args", "seed",
    "cache_probe_rate", "trace", "n",
)  # fmt: skip
_OWN_OPTIONS: Final = ("model", "max_num_requests")


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A policy with its arguments."""

    name: str
    args: Args = field(default_factory=dict)

    def __str__(self) -> str:
        """As it is typed: ``dual`` or ``dual:refresh_every=4``."""
        listed = ",".join(f"{name}={typed(value)}" for name, value in self.args.items())
        return f"{self.name}:{listed}" if listed else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskChoice:
    """Problems of a shipped set, or the rows of a file."""

    name: str
    """Of the set; of a file what reports call it."""

    file: str = ""
    """A ``.jsonl`` or ``.parquet`` file of rows with references; empty for a shipped set."""

    digest: str = ""
    """Of the file's bytes, so that a changed file makes other cells."""

    scorer: Scorer = "task"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One setting on one task: what a study measures at a time."""

    model: str
    task: TaskChoice
    cache: Choice
    remasking: Choice
    block_length: int | None
    max_tokens: int | None
    batch_size: int
    seed: int
    shots: int
    num_problems: int
    engine: Args
    sampling: Args

    @property
    def id(self) -> str:
        """A short hash of all settings; equal settings have equal ids on any machine."""
        settings = self.to_plain()
        settings["task"] = {**settings["task"], "file": bool(self.task.file)}
        text = json.dumps(settings, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def to_plain(self) -> dict[str, Any]:
        """The settings as JSON's values."""
        plain = {each.name: getattr(self, each.name) for each in fields(self)}
        for name in ("cache", "remasking"):
            plain[name] = {"name": plain[name].name, "args": dict(plain[name].args)}
        plain["task"] = {each.name: getattr(self.task, each.name) for each in fields(self.task)}
        return plain | {"engine": dict(self.engine), "sampling": dict(self.sampling)}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """The cell of :meth:`to_plain`."""
        made = {
            "task": TaskChoice(**plain["task"]),
            "cache": Choice(**plain["cache"]),
            "remasking": Choice(**plain["remasking"]),
        }
        return cls(**{**plain, **made})

    def params(self, max_tokens: int) -> SamplingParams:
        """What every request of the cell asks for.

        Args:
            max_tokens: For a cell that leaves the length to its task.
        """
        return SamplingParams(
            max_tokens=self.max_tokens or max_tokens,
            block_length=self.block_length,
            remasking=self.remasking.name,
            remasking_args=self.remasking.args,
            cache=self.cache.name,
            cache_args=self.cache.args,
            seed=self.seed,
        ).with_overrides(self.sampling)


def _all_sets() -> tuple[TaskChoice, ...]:
    return tuple(TaskChoice(name=name) for name in PROBLEM_SETS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """All combinations of the axes; the first cache with the first remasking is the baseline.

    Raises:
        ConfigError: If an axis is empty or has a value twice, or a value cannot be used by any
            model; names all of them at once. What one model refuses shows in its cells.
    """

    models: tuple[str, ...] = ("tiny-llada",)
    tasks: tuple[TaskChoice, ...] = field(default_factory=_all_sets)
    caches: tuple[Choice, ...] = (Choice(name="none"), Choice(name="dual"))
    remasking: tuple[Choice, ...] = (
        Choice(name="low_confidence"), Choice(name="threshold"), Choice(name="starr"),
    )  # fmt: skip
    block_lengths: tuple[int | None, ...] = (None,)
    """None is the model's own, or 32."""

    max_tokens: tuple[int | None, ...] = (None,)
    """None is the task's own; 64 for files."""

    batch_sizes: tuple[int, ...] = (16,)
    seeds: tuple[int, ...] = (0,)
    """Of the problems that are drawn and of the noise."""

    shots: tuple[int, ...] = (0,)
    """Solved problems in front of each prompt, which make prompts longer; shipped sets only."""

    num_problems: int = 100
    """Of each task; of a longer file so many rows are drawn."""

    engine: Args = field(default_factory=dict)
    """Other fields of ``EngineConfig``; sharing between requests is off unless asked for."""

    sampling: Args = field(default_factory=dict)
    """Other fields of ``SamplingParams``, such as ``temperature`` and ``ignore_eos``."""

    def __post_init__(self) -> None:
        problems = [*self._axis_problems(), *self._number_problems(), *self._option_problems()]
        for kind, registry, choices in (
            ("cache", CACHE_POLICIES, self.caches),
            ("remasking", REMASKING_POLICIES, self.remasking),
        ):
            for choice in choices:
                try:
                    cast(Any, registry).create(choice.name, choice.args)
                except (RequestError, ConfigError) as error:
                    problems.append(f"{kind} {choice}: {error}")
        for task in self.tasks:
            if not task.file and task.name not in PROBLEM_SETS:
                problems.append(unknown_name("task", task.name, list(PROBLEM_SETS)))
            if task.file and max(self.shots, default=0):
                problems.append(f"shots are for shipped tasks; {task.file} has none to show")
            if task.scorer == "agreement" and self.sampling.get("temperature", 0) != 0:
                problems.append(
                    "above temperature 0 outputs are drawn and differ whatever the setting: "
                    "agreement says nothing"
                )
        if problems:
            raise ConfigError("; ".join(problems))

    def cells(self) -> Iterator[Cell]:
        """All cells; those of one engine together, and of each group the baseline first."""
        engine = {**NO_SHARING, **self.engine}
        for model, batch, length, block, shots, seed, task, cache, remasking in itertools.product(
            self.models, self.batch_sizes, self.max_tokens, self.block_lengths, self.shots,
            self.seeds, self.tasks, self.caches, self.remasking,
        ):  # fmt: skip
            yield Cell(
                model=model, task=task, cache=cache, remasking=remasking, block_length=block,
                max_tokens=length, batch_size=batch, seed=seed, shots=shots,
                num_problems=self.num_problems, engine=engine, sampling=self.sampling,
            )  # fmt: skip

    def baseline_of(self, cell: Cell) -> Cell:
        """The cell that ``cell`` is compared with."""
        return replace(cell, cache=self.caches[0], remasking=self.remasking[0])

    def _axes(self) -> dict[str, Sequence[object]]:
        names = (
            "models", "tasks", "caches", "remasking", "block_lengths", "max_tokens", "batch_sizes",
            "seeds", "shots",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}

    def _axis_problems(self) -> Iterator[str]:
        for name, values in self._axes().items():
            if not values:
                yield f"{name} is empty; give at least one"
            known = [
                value.name if isinstance(value, TaskChoice) else str(value) for value in values
            ]
            for value in dict.fromkeys(known):
                if known.count(value) > 1:
                    yield f"{name} has {value} twice"

    def _number_problems(self) -> Iterator[str]:
        least = {"batch_sizes": 1, "seeds": 0, "shots": 0, "block_lengths": 1, "max_tokens": 1}
        for name, low in least.items():
            for value in getattr(self, name):
                if value is None and name in ("block_lengths", "max_tokens"):
                    continue
                if not is_int(value) or value < low:
                    yield f"{name} takes integers >= {low}, got {value!r}"
        if not is_int(self.num_problems) or self.num_problems < 1:
            yield f"num_problems must be an integer >= 1, got {self.num_problems!r}"

    def _option_problems(self) -> Iterator[str]:
        for name, options, own in (
            ("engine", self.engine, _OWN_OPTIONS), ("sampling", self.sampling, _OWN_FIELDS),
        ):  # fmt: skip
            for option in own:
                if option in options:
                    yield f"{option} is an axis, or the study's own; take it out of {name}"
        try:
            EngineConfig.from_options(**{**NO_SHARING, **self.engine})
            SamplingParams().with_overrides(self.sampling)
        except (ConfigError, RequestError) as error:
            yield str(error)


def typed(value: ArgValue) -> str:
    """A value such that reading it as JSON, or else as text, gives it back."""
    if not isinstance(value, str):
        return json.dumps(value)
    try:
        json.loads(value)
    except ValueError:
        return value
    return json.dumps(value)
