"""A Hugging Face data set in the folder that ``Dataset.save_to_disk`` wrote.

Its rows are Arrow streams, whose names and order are in ``state.json``; pyarrow reads them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pyarrow as pa

from starr_engine.errors import ConfigError
from starr_engine.offline.source import ColumnarSource

STATE_FILE: Final = "state.json"
SPLITS_FILE: Final = "dataset_dict.json"


def is_saved_dataset(folder: Path) -> bool:
    """Whether the folder holds a data set, or a dictionary of them."""
    return (folder / STATE_FILE).is_file() or (folder / SPLITS_FILE).is_file()


class SavedDataset(ColumnarSource):
    """One split of a data set on disk.

    Raises:
        ConfigError: If the folder holds several splits, or a file is not what it should be.
    """

    def __init__(self, folder: Path) -> None:
        self.name = str(folder)
        self._files: Final = [folder / name for name in _file_names(folder)]
        digest = hashlib.sha256()
        self.num_rows = 0
        schemas: list[pa.Schema] = []
        for path in self._files:
            try:
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
                with pa.memory_map(str(path)) as mapped, pa.ipc.open_stream(mapped) as stream:
                    schemas.append(stream.schema)
                    self.num_rows += sum(batch.num_rows for batch in stream)
            except (pa.ArrowException, OSError) as error:
                raise ConfigError(f"{path} is not an Arrow stream: {error}") from error
            if not schemas[-1].equals(schemas[0]):
                raise ConfigError(f"the columns of {path} are not those of {self._files[0]}")
        self.schema = schemas[0]
        self.fingerprint = f"sha256:{digest.hexdigest()}"

    def batches(
        self, *, start: int = 0, batch_rows: int, columns: list[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Record batches of at most ``batch_rows`` rows, of all or of the named columns."""
        for path in self._files:
            with pa.memory_map(str(path)) as mapped, pa.ipc.open_stream(mapped) as stream:
                for batch in stream:
                    skipped = min(start, batch.num_rows)
                    start -= skipped
                    for first in range(skipped, batch.num_rows, batch_rows):
                        piece = batch.slice(first, batch_rows)
                        yield piece if columns is None else piece.select(columns)


def _file_names(folder: Path) -> list[str]:
    splits = folder / SPLITS_FILE
    if splits.is_file():
        names = json.loads(splits.read_text()).get("splits", [])
        raise ConfigError(
            f"{folder} holds the splits {', '.join(names) or 'of no name'}; give the folder of one"
        )
    state = folder / STATE_FILE
    try:
        files = [entry["filename"] for entry in json.loads(state.read_text())["_data_files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{state} does not name the data files: {error!r}") from error
    if not files:
        raise ConfigError(f"{state} names no data file")
    for name in files:
        if not isinstance(name, str) or Path(name).name != name:
            raise ConfigError(f"{state} names {name!r}, which is no file of the folder")
    return files
