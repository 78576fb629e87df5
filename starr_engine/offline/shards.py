"""A finished journal as a folder of files with a manifest.

```
part-00000.jsonl, part-00001.jsonl ...   or .parquet; rows in the order of the input
manifest.json                            the shards with their rows and digests, and the settings
```
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

import pyarrow.parquet as pq

from starr_engine.offline.journal import Journal
from starr_engine.offline.parquet import parquet_tables
from starr_engine.offline.reader import is_parquet
from starr_engine.offline.source import Source

MANIFEST: Final = "manifest.json"


def write_shards(folder: Path, journal: Journal, source: Source, shard_rows: int) -> None:
    """Write the rows of a journal into a new folder; the journal's output says the format.

    Args:
        folder: To make.
        journal: With all rows of the job.
        source: The input that the rows answer, one for one.
        shard_rows: Of each file but the last; an input without rows gives one empty file.

    Raises:
        OSError: If the disk is full.
    """
    folder.mkdir()
    write = _parquet_shards if is_parquet(journal.output) else _jsonl_shards
    shards = [
        {
            "file": path.name,
            "num_rows": num_rows,
            "sha256": _digest(path),
        }
        for path, num_rows in write(folder, journal, source, shard_rows)
    ]
    manifest = {"num_rows": journal.num_rows, "shards": shards, "settings": journal.settings}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")


def _jsonl_shards(
    folder: Path, journal: Journal, source: Source, shard_rows: int
) -> Iterator[tuple[Path, int]]:
    lines = journal.lines()
    for number in range(_num_shards(journal, shard_rows)):
        path = folder / f"part-{number:05}.jsonl"
        piece = 0
        with path.open("wb") as file:
            for line in islice(lines, shard_rows):
                file.write(line)
                piece += 1
        yield path, piece


def _parquet_shards(
    folder: Path, journal: Journal, source: Source, shard_rows: int
) -> Iterator[tuple[Path, int]]:
    schema, tables = parquet_tables(journal.rows, source)
    rest = schema.empty_table()
    for number in range(_num_shards(journal, shard_rows)):
        path = folder / f"part-{number:05}.parquet"
        missing = shard_rows
        with pq.ParquetWriter(path, schema) as writer:
            while missing:
                piece, rest = rest.slice(0, missing), rest.slice(missing)
                if piece.num_rows:
                    writer.write_table(piece)
                    missing -= piece.num_rows
                elif (table := next(tables, None)) is not None:
                    rest = table
                else:
                    break
        yield path, shard_rows - missing


def _num_shards(journal: Journal, shard_rows: int) -> int:
    return max(1, -(-journal.num_rows // shard_rows))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
