"""Grids from a YAML file, or from what was typed."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Final, get_args

from starr_engine.errors import ConfigError
from starr_engine.params import ArgValue
from starr_engine.registry import unknown_name
from starr_engine.study.grid.axes import Choice, Grid, Scorer, TaskChoice
from starr_engine.study.grid.harness import PREFIX, harness_digest, parse_harness_task
from starr_engine.study.policy_file import load_policy_args
from starr_engine.study.problem_sets import PROBLEM_SETS

ALL: Final = "all"
"""As a task: every shipped set."""


def read_grids(path: Path, changes: Mapping[str, object] | None = None) -> tuple[Grid, ...]:
    """The grids of a YAML file: one for each of its documents, which ``---`` divides.

    Args:
        path: Of the file. Files it names are found from where it lies.
        changes: Entries in place of the file's, in every grid.

    Raises:
        ConfigError: If it cannot be read, or says something that no grid can be.
    """
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise ConfigError(
            'a grid in YAML needs PyYAML: pip install "starr-engine[study]", or give it as flags'
        ) from error
    try:
        documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"the grid {path} cannot be read: {error}") from error
    if not documents or not all(isinstance(each, dict) for each in documents):
        raise ConfigError(f"the grid {path} must map names of axes to values")
    try:
        return tuple(make_grid({**each, **(changes or {})}, path.parent) for each in documents)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def make_grid(content: Mapping[str, object], folder: Path = Path()) -> Grid:
    """The grid that a mapping describes; names that are not there keep ``Grid``'s defaults.

    Args:
        content: Field of ``Grid`` to its value, or to a list of them; and ``include_path``, a
            folder of tasks for lm-evaluation-harness.
        folder: Where relative files lie.

    Raises:
        ConfigError: If a name is unknown or a value of the wrong kind.
    """
    known = [*(each.name for each in fields(Grid)), "include_path"]
    include_path = content.get("include_path")
    include = "" if include_path is None else str(folder / str(include_path))
    made: dict[str, Any] = {}
    for name, value in content.items():
        if name not in known:
            raise ConfigError(unknown_name("entry of a grid", str(name), known))
        if name == "include_path":
            continue
        if name in ("engine", "sampling"):
            made[name] = _mapping(name, value)
        elif name == "num_problems":
            made[name] = value
        else:
            made[name] = _axis(name, _listed(value), folder, include)
    return Grid(**made)


def parse_choice(text: str, folder: Path = Path()) -> Choice:
    """``dual``, ``dual:refresh_every=4,suffix_window=8``, or ``starr@FILE`` of a calibration.

    Raises:
        ConfigError: If an argument is not NAME=VALUE, or the file cannot be used.
    """
    name, _, listed = text.partition(":")
    args = parse_values(f"the arguments of {name}", listed.split(",") if listed else [])
    return _choice(name, args, folder)


def parse_values(where: str, entries: Sequence[str]) -> dict[str, ArgValue]:
    """``["k=0.5", "mode=fast"]`` -> ``{"k": 0.5, "mode": "fast"}``.

    Raises:
        ConfigError: If an entry is not NAME=VALUE, or a name comes twice.
    """
    parsed: dict[str, ArgValue] = {}
    for entry in entries:
        name, equals, text = entry.partition("=")
        if not name or not equals or name in parsed:
            raise ConfigError(f"{where} must be NAME=VALUE, each name once, got {entry!r}")
        try:
            parsed[name] = json.loads(text)
        except ValueError:
            parsed[name] = text
    return parsed


def parse_task(value: object, folder: Path = Path(), include_path: str = "") -> list[TaskChoice]:
    """A shipped set, ``all`` of them, a file, or a mapping with ``file`` and ``scorer``.

    Or a task of lm-evaluation-harness: ``lm_eval:NAME``, ``lm_eval:NAME:num_fewshot=4,chat=true``,
    or a mapping with ``lm_eval``.

    Raises:
        ConfigError: If it is none of these, or the file cannot be read.
    """
    if isinstance(value, TaskChoice):
        return [value]
    if (entry := _harness_entry(value)) is not None:
        harness = parse_harness_task(entry, folder, include_path)
        name = entry.get("name", str(harness))
        return [TaskChoice(name=str(name), digest=harness_digest(harness), harness=harness)]
    if value == ALL:
        return [TaskChoice(name=name) for name in PROBLEM_SETS]
    if isinstance(value, str) and not Path(value).suffix:
        return [TaskChoice(name=value)]
    asked = {"file": value} if isinstance(value, str) else value
    if not isinstance(asked, dict) or not isinstance(asked.get("file"), str):
        raise ConfigError(
            f"a task is the name of a shipped set, lm_eval:NAME, a file or {{file: ...}}: {value}"
        )
    if unknown := set(asked) - {"file", "scorer", "name"}:
        raise ConfigError(
            f"a task's file takes name and scorer, not {', '.join(map(str, unknown))}"
        )
    scorer = asked.get("scorer", "exact")
    if scorer not in get_args(Scorer):
        raise ConfigError(unknown_name("scorer", str(scorer), list(get_args(Scorer))))
    path = folder / asked["file"]
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise ConfigError(f"the task's file {path} cannot be read: {error}") from error
    name = str(asked.get("name", path.stem))
    return [TaskChoice(name=name, file=str(path), digest=digest, scorer=scorer)]


def _harness_entry(value: object) -> dict[str, Any] | None:
    """``lm_eval:NAME:chat=true`` as a mapping; None if it is no task of the harness."""
    if isinstance(value, dict):
        return value if "lm_eval" in value else None
    if not isinstance(value, str) or not value.startswith(PREFIX):
        return None
    name, _, listed = value.removeprefix(PREFIX).partition(":")
    values = parse_values(f"the entries of {PREFIX}{name}", listed.split(",") if listed else [])
    return {"lm_eval": name, **values}


def _axis(name: str, values: list[object], folder: Path, include: str) -> tuple[object, ...]:
    if name == "tasks":
        return tuple(task for value in values for task in parse_task(value, folder, include))
    if name in ("caches", "remasking"):
        return tuple(choice for value in values for choice in _choices(name, value, folder))
    return tuple(str(value) for value in values) if name == "models" else tuple(values)


def _choices(axis: str, value: object, folder: Path) -> list[Choice]:
    """One entry of an axis of policies; lists among its arguments are swept, all combinations."""
    if isinstance(value, Choice):
        return [value]
    if isinstance(value, str):
        return [parse_choice(value, folder)]
    if not isinstance(value, dict) or len(value) != 1:
        raise ConfigError(f"{axis}: an entry is a policy, or one policy with arguments: {value!r}")
    [(name, args)] = value.items()
    swept = {arg: _listed(each) for arg, each in _mapping(f"{axis}: {name}", args).items()}
    return [
        _choice(str(name), dict(zip(swept, each, strict=True)), folder)
        for each in itertools.product(*swept.values())
    ]


def _choice(name: str, args: dict[str, Any], folder: Path) -> Choice:
    policy, at, file = name.partition("@")
    if at:
        args = {**load_policy_args(str(folder / file), policy), **args}
    return Choice(name=policy, args=args)


def _listed(value: object) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _mapping(name: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{name} must map names to values, got {value!r}")
    return {str(key): each for key, each in value.items()}
