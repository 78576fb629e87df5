"""What a batch job reads: numbered rows that can be read again from any of them."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import pyarrow as pa

from starr_engine.errors import ConfigError
from starr_engine.offline.rows import RawRow

BATCH_ROWS: Final = 256
"""Rows of a columnar source held as Python objects at once."""


class Source(ABC):
    """Rows in a fixed order.

    Attributes:
        name: For messages.
        num_rows: How many rows it has.
        fingerprint: Changes whenever the content does; says nothing about the name.
    """

    name: str
    num_rows: int
    fingerprint: str

    @abstractmethod
    def rows(self, start: int = 0) -> Iterator[RawRow]:
        """The rows from number ``start``, counted from 0."""


class ColumnarSource(Source):
    """Rows that come as record batches of one schema.

    Attributes:
        schema: Of every batch.
    """

    schema: pa.Schema

    @abstractmethod
    def batches(
        self, *, start: int = 0, batch_rows: int, columns: list[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Record batches of at most ``batch_rows`` rows, of all or of the named columns."""

    def rows(self, start: int = 0) -> Iterator[RawRow]:
        """The rows from number ``start``; one whose text is not UTF-8 is a row with an error."""
        index = start
        for batch in self.batches(start=start, batch_rows=BATCH_ROWS):
            for columns in python_rows(batch):
                if isinstance(columns, str):
                    yield RawRow(index=index, error=columns)
                else:
                    yield RawRow(index=index, columns=columns)
                index += 1


class Shards(Source):
    """Several sources, one after the other.

    Args:
        name: For messages.
        parts: In the order of their rows.
    """

    def __init__(self, name: str, parts: Sequence[Source]) -> None:
        self.name = name
        self.num_rows = sum(part.num_rows for part in parts)
        joined = "\n".join(part.fingerprint for part in parts)
        self.fingerprint = f"sha256:{hashlib.sha256(joined.encode()).hexdigest()}"
        self._parts: Final = parts

    def rows(self, start: int = 0) -> Iterator[RawRow]:
        """The rows from number ``start``; an error names the part as well."""
        first = 0
        for part in self._parts:
            if start < first + part.num_rows:
                for row in part.rows(max(start - first, 0)):
                    error = row.error and f"{part.name}: {row.error}"
                    yield replace(row, index=first + row.index, error=error)
            first += part.num_rows


class ColumnarShards(ColumnarSource):
    """Several columnar sources of one schema, one after the other.

    Args:
        name: For messages.
        parts: At least one, in the order of their rows.

    Raises:
        ConfigError: If their schemas differ.
    """

    def __init__(self, name: str, parts: Sequence[ColumnarSource]) -> None:
        self.name = name
        self.num_rows = sum(part.num_rows for part in parts)
        self.fingerprint = Shards(name, parts).fingerprint
        self.schema = parts[0].schema
        for part in parts[1:]:
            if not part.schema.equals(self.schema):
                raise ConfigError(
                    f"the columns of {part.name} are not those of {parts[0].name}, and one output "
                    f"cannot have both; run them as jobs of their own"
                )
        self._parts: Final = parts

    def batches(
        self, *, start: int = 0, batch_rows: int, columns: list[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Record batches, none of which spans two parts."""
        for part in self._parts:
            if start < part.num_rows:
                yield from part.batches(start=start, batch_rows=batch_rows, columns=columns)
            start = max(start - part.num_rows, 0)


def python_rows(batch: pa.RecordBatch) -> Iterator[dict[str, object] | str]:
    """Each row's columns as Python objects, or why the row cannot be read."""
    try:
        yield from batch.to_pylist(maps_as_pydicts="strict")
        return
    except (UnicodeDecodeError, KeyError) as error:
        if batch.num_rows == 1:
            yield f"the row cannot be read: {error}"
            return
    for place in range(batch.num_rows):
        yield from python_rows(batch.slice(place, 1))
