"""Files and folders of rows, never all in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from starr_engine.errors import ConfigError
from starr_engine.offline.rows import RawRow
from starr_engine.offline.saved_dataset import SavedDataset, is_saved_dataset
from starr_engine.offline.source import ColumnarShards, ColumnarSource, Shards, Source

JSONL_SUFFIXES: Final = (".jsonl", ".ndjson")
PARQUET_SUFFIXES: Final = (".parquet",)


def is_parquet(path: Path) -> bool:
    """Whether the path's suffix stands for Parquet.

    Raises:
        ConfigError: If it stands for neither kind.
    """
    if path.suffix in PARQUET_SUFFIXES:
        return True
    if path.suffix in JSONL_SUFFIXES:
        return False
    known = ", ".join((*JSONL_SUFFIXES, *PARQUET_SUFFIXES))
    raise ConfigError(f"{path}: the suffix says the format; it must be one of {known}")


def open_source(path: Path) -> Source:
    """Open an input; reads it once to count its rows and fingerprint it.

    Args:
        path: A JSONL or Parquet file; a folder of such files, which are taken in the order of their
            names, as one input; or a data set in the folder that ``datasets`` saved it to.

    Raises:
        ConfigError: If it does not exist, has another suffix, or is not what its suffix says.
    """
    if path.is_dir():
        return SavedDataset(path) if is_saved_dataset(path) else _open_shards(path)
    if not path.is_file():
        raise ConfigError(f"the input {path} does not exist")
    return ParquetSource(path) if is_parquet(path) else JsonlSource(path)


def _open_shards(folder: Path) -> Source:
    known = (*JSONL_SUFFIXES, *PARQUET_SUFFIXES)
    paths = sorted(
        path
        for path in folder.iterdir()
        if path.suffix in known and not path.name.startswith((".", "_")) and path.is_file()
    )
    if not paths:
        raise ConfigError(f"the input {folder} holds no file with a suffix of {', '.join(known)}")
    if len({is_parquet(path) for path in paths}) > 1:
        raise ConfigError(
            f"the input {folder} holds JSONL and Parquet; give each a folder of its own"
        )
    if is_parquet(paths[0]):
        return ColumnarShards(str(folder), [ParquetSource(path) for path in paths])
    return Shards(str(folder), [JsonlSource(path) for path in paths])


class JsonlSource(Source):
    """One JSON object a line, UTF-8; blank lines are not rows."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path: Final = path
        digest = hashlib.sha256()
        self.num_rows = 0
        with path.open("rb") as file:
            for line in file:
                digest.update(line)
                self.num_rows += bool(line.strip())
        self.fingerprint = f"sha256:{digest.hexdigest()}"

    def rows(self, start: int = 0) -> Iterator[RawRow]:
        """The rows from number ``start``; a line that cannot be read is a row with an error."""
        with self._path.open("rb") as file:
            lines = ((number, line) for number, line in enumerate(file, 1) if line.strip())
            for index, (number, line) in enumerate(islice(lines, start, None), start):
                yield _parse_line(index, number, line)


def _parse_line(index: int, number: int, line: bytes) -> RawRow:
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        columns = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:  # both decoders raise kinds of ValueError
        return RawRow(index=index, error=f"line {number} is not JSON: {error}")
    if not isinstance(columns, dict):
        kind = type(columns).__name__
        return RawRow(index=index, error=f"line {number} must be a JSON object, got a {kind}")
    return RawRow(index=index, columns=columns)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


class ParquetSource(ColumnarSource):
    """A Parquet file, read in record batches."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path: Final = path
        with path.open("rb") as file:
            self.fingerprint = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        try:
            with pq.ParquetFile(path) as file:
                self.num_rows = int(file.metadata.num_rows)
                self.schema: pa.Schema = file.schema_arrow
        except (pa.ArrowException, OSError) as error:
            raise ConfigError(f"the input {path} is not a Parquet file: {error}") from error

    def batches(
        self, *, start: int = 0, batch_rows: int, columns: list[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Record batches of at most ``batch_rows`` rows, of all or of the named columns."""
        with pq.ParquetFile(self._path) as file:
            group = 0
            while group < file.num_row_groups and start >= (
                size := file.metadata.row_group(group).num_rows
            ):
                start -= size
                group += 1
            groups = list(range(group, file.num_row_groups))
            for batch in file.iter_batches(batch_rows, row_groups=groups, columns=columns):
                if start >= batch.num_rows:
                    start -= batch.num_rows
                    continue
                yield batch.slice(start)
                start = 0
