"""A task of lm-evaluation-harness, as a study names it."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from starr_engine.errors import ConfigError
from starr_engine.params import ArgValue
from starr_engine.registry import unknown_name

PREFIX: Final = "lm_eval:"
"""In front of the task's name, where tasks are listed."""

_ENTRIES: Final = ("lm_eval", "include_path", "num_fewshot", "chat", "metric", "filter", "name")
_KEPT: Final = (".yaml", ".yml", ".py", ".json", ".jsonl", ".csv", ".parquet", ".txt")


@dataclass(frozen=True, slots=True, kw_only=True)
class HarnessTask:
    """Which of the harness's tasks, and how it is asked.

    Raises:
        ConfigError: If a value is of the wrong kind.
    """

    name: str

    include_path: str = ""
    """A folder with the task's own YAML file; empty for the tasks that come with the harness."""

    num_fewshot: int | None = None
    """Solved examples in front of each prompt; None is the task's own number."""

    chat: bool = False
    """Whether prompts go through the checkpoint's chat template."""

    metric: str = ""
    """Which of the task's metrics says whether a problem is solved; empty takes the first."""

    filter: str = ""
    """Which of the task's filters makes an answer of a text; empty takes the first."""

    def __post_init__(self) -> None:
        shots = self.num_fewshot
        if shots is not None and (type(shots) is not int or shots < 0):
            raise ConfigError(f"{self}: num_fewshot must be an integer >= 0, got {shots!r}")
        if not isinstance(self.chat, bool):
            raise ConfigError(f"{self}: chat must be true or false, got {self.chat!r}")
        for field in ("name", "include_path", "metric", "filter"):
            if not isinstance(value := getattr(self, field), str):
                raise ConfigError(f"{self}: {field} must be a text, got {value!r}")

    def __str__(self) -> str:
        """For messages."""
        return f"{PREFIX}{self.name}"

    @property
    def args(self) -> dict[str, ArgValue]:
        """What differs from the defaults, the name aside."""
        return {
            each.name: value
            for each in fields(self)
            if each.name != "name" and (value := getattr(self, each.name)) != each.default
        }


def parse_harness_task(entry: Mapping[str, Any], folder: Path, include_path: str) -> HarnessTask:
    """The task of ``{lm_eval: NAME, num_fewshot: 4, chat: true, ...}``.

    Args:
        entry: Fields of :class:`HarnessTask`; ``name`` is what reports call it and is not read.
        folder: Where a relative ``include_path`` lies.
        include_path: Of the grid, for entries that have none of their own.

    Raises:
        ConfigError: If an entry is unknown or of the wrong kind.
    """
    given = dict(entry)
    for name in given:
        if name not in _ENTRIES:
            raise ConfigError(unknown_name("entry of a task", str(name), list(_ENTRIES)))
    given.pop("name", None)
    own = given.pop("include_path", None)
    path = include_path if own is None else str(folder / str(own))
    return HarnessTask(name=given.pop("lm_eval"), include_path=path, **given)


def harness_digest(task: HarnessTask) -> str:
    """A hash of the harness's version and the files beside the task's own, if it has such.

    Raises:
        ConfigError: If ``lm_eval`` is not installed, or the folder does not exist.
    """
    try:
        known = [importlib.metadata.version("lm_eval")]
    except importlib.metadata.PackageNotFoundError as error:
        raise ConfigError(
            f"{task} needs lm-evaluation-harness: pip install 'starr-engine[lm-eval]'"
        ) from error
    if task.include_path:
        root = Path(task.include_path)
        if not root.is_dir():
            raise ConfigError(f"{task}: include_path {root} is no folder")
        for path in sorted(root.rglob("*")):
            if path.suffix in _KEPT and path.is_file():
                content = hashlib.sha256(path.read_bytes()).hexdigest()
                known.append(f"{path.relative_to(root).as_posix()} {content}")
    return hashlib.sha256("\n".join(known).encode()).hexdigest()[:16]
