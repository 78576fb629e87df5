"""The JSON files of a model folder, read once and handed to the family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starr_engine.errors import ConfigError
from starr_engine.models.loading.checkpoint import read_json

GENERATION_CONFIG = "generation_config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFiles:
    """What the files say, unchecked; a file that is not there is empty."""

    config: Mapping[str, Any]
    """``config.json``, the one file that must be there."""

    generation: Mapping[str, Any] = field(default_factory=dict)
    """``generation_config.json``."""

    tokenizer: Mapping[str, Any] = field(default_factory=dict)
    """``tokenizer_config.json``."""

    @classmethod
    def read(cls, folder: Path) -> ConfigFiles:
        """Read a folder's files.

        Raises:
            ConfigError: If there is no ``config.json``, or a file does not hold a JSON object.
        """
        path = folder / "config.json"
        if not path.is_file():
            raise ConfigError(f"{folder} is not a model folder: it has no config.json")
        return cls(
            config=read_json(path),
            generation=_read_if_there(folder / GENERATION_CONFIG),
            tokenizer=_read_if_there(folder / TOKENIZER_CONFIG),
        )


def _read_if_there(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
