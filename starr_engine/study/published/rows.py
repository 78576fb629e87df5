"""The rows of a published file, in whichever of its formats it was taken."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from starr_engine.errors import ConfigError

Row: TypeAlias = Mapping[str, Any]


def read_rows(path: Path) -> list[Row]:
    """All rows of a file, or of a folder with one problem per file.

    Args:
        path: ``.jsonl``, ``.jsonl.gz``, ``.json`` (a list, or one object), ``.parquet``; or a
            folder, whose ``.json`` files are taken in the order of their numbers (as MATH is
            packed).

    Raises:
        ConfigError: If it is not there, of another kind, or not what its name says.
    """
    if path.is_dir():
        files = sorted(path.rglob("*.json"), key=_natural)
        if not files:
            raise ConfigError(f"{path} holds no .json file")
        return [row for file in files for row in read_rows(file)]
    if not path.is_file():
        raise ConfigError(f"{path} does not exist")
    try:
        rows = _read(path)
    except (OSError, ValueError, EOFError) as error:  # JSON's, Unicode's and Arrow's are ValueError
        raise ConfigError(f"{path} cannot be read: {error}") from error
    for at, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ConfigError(f"row {at} of {path} is no object but a {type(row).__name__}")
    return rows


def field(row: Row, name: str, kind: type, where: str) -> Any:
    """A field of a row.

    Raises:
        ConfigError: If it is missing or of another type.
    """
    value = row.get(name)
    if not isinstance(value, kind):
        has = ", ".join(row) or "nothing"
        found = "is missing" if value is None else f"is a {type(value).__name__}"
        raise ConfigError(f"{where}: {name} {found}; a {kind.__name__} is needed. It has {has}")
    return value


def _read(path: Path) -> list[Any]:
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return list(pq.read_table(path).to_pylist())
    if path.suffix == ".json":
        whole = json.loads(path.read_text(encoding="utf-8"))
        return whole if isinstance(whole, list) else [whole]
    if path.suffix == ".jsonl":
        lines = path.read_text(encoding="utf-8")
    elif path.name.endswith(".jsonl.gz"):
        lines = gzip.decompress(path.read_bytes()).decode("utf-8")
    else:
        raise ConfigError(f"{path}: .jsonl, .jsonl.gz, .json and .parquet are read")
    return [json.loads(line) for line in lines.split("\n") if line.strip()]


def _natural(path: Path) -> tuple[str, int, str]:
    return str(path.parent), int(path.stem) if path.stem.isdecimal() else 0, path.stem
