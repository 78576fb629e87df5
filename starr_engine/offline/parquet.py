"""The finished journal as a Parquet file.

Columns that are carried through from a columnar input are copied from it, types and all. From
JSONL their types are inferred over all rows; a column whose values share no type that Parquet
knows is written as JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from starr_engine.infilling import INFILL_FIELDS
from starr_engine.offline.rows import SLOTS_FIELD, is_carried
from starr_engine.offline.source import ColumnarSource, Source
from starr_engine.outputs import CacheDrift

GROUP_ROWS: Final = 4096
"""Rows held in memory at once, and rows of a row group."""

_RESULT_SCHEMA: Final = pa.schema(
    [
        ("text", pa.string()),
        ("token_ids", pa.list_(pa.int32())),
        ("finish_reason", pa.string()),
        ("nfe", pa.int64()),
        ("tpf", pa.float64()),
        ("cache_label", pa.string()),
        ("error", pa.string()),
    ]
)

_LOGPROB: Final = [("token_id", pa.int32()), ("logprob", pa.float64())]
_LOGPROBS: Final = pa.list_(
    pa.struct([*_LOGPROB, ("step", pa.int64()), ("top", pa.list_(pa.struct(_LOGPROB)))])
)
_DRIFT: Final = pa.struct(
    [
        (
            entry.name,
            pa.int64() if entry.name in ("probe_forwards", "rows_compared") else pa.float64(),
        )
        for entry in fields(CacheDrift)
    ]
)
_SAMPLE: Final = ("text", "token_ids", "finish_reason", "nfe", "tpf")
OPTIONAL_SCHEMA: Final = pa.schema(
    [
        ("logprobs", _LOGPROBS),
        ("drift", _DRIFT),
        (
            "samples",
            pa.list_(
                pa.struct(
                    [
                        *(_RESULT_SCHEMA.field(name) for name in _SAMPLE),
                        ("logprobs", _LOGPROBS),
                        ("drift", _DRIFT),
                    ]
                )
            ),
        ),
    ]
)

JournalRows = Iterable[dict[str, object]]


def write_parquet(path: Path, journal_rows: Callable[[], JournalRows], source: Source) -> None:
    """Write the rows of a journal as a Parquet file.

    Args:
        path: Of the new file.
        journal_rows: Starts to read the journal from its first row; called up to three times.
        source: The input that the rows answer, one for one.

    Raises:
        OSError: If the disk is full.
    """
    schema, tables = parquet_tables(journal_rows, source)
    with pq.ParquetWriter(path, schema) as writer:
        for table in tables:
            writer.write_table(table)


def parquet_tables(
    journal_rows: Callable[[], JournalRows], source: Source
) -> tuple[pa.Schema, Iterator[pa.Table]]:
    """The rows of a journal as tables of at most ``GROUP_ROWS`` rows; see :func:`write_parquet`."""
    if isinstance(source, ColumnarSource):
        schema = _with_optional(_copied_schema(source), journal_rows())
        return schema, _copied_tables(schema, journal_rows(), source)
    schema = _with_optional(_inferred_schema(journal_rows()), journal_rows())
    return schema, (_table(rows, schema) for rows in _groups(journal_rows()))


def _groups(rows: JournalRows) -> Iterator[list[dict[str, object]]]:
    iterator = iter(rows)
    while group := list(islice(iterator, GROUP_ROWS)):
        yield group


def _with_optional(schema: pa.Schema, rows: JournalRows) -> pa.Schema:
    """``schema`` with the columns that only some jobs have, where one of the rows has them."""
    found: set[str] = set()
    for row in rows:
        found.update(_OPTIONAL.intersection(row))
    for field in OPTIONAL_SCHEMA:
        if field.name in found:
            schema = schema.append(field)
    return schema


def _copied_schema(source: ColumnarSource) -> pa.Schema:
    fields = {field.name: field for field in source.schema}
    own_id = fields.get("id", pa.field("id", pa.string()))
    return pa.schema(
        [own_id, *(fields[name] for name in fields if is_carried(name)), *result_fields(fields)]
    )


def result_fields(columns: Collection[str]) -> list[pa.Field]:
    """The results, with the slots if the columns ask for any and have no such name of their own."""
    has_slots = SLOTS_FIELD not in columns and any(name in columns for name in INFILL_FIELDS)
    return [*_RESULT_SCHEMA, *([pa.field(SLOTS_FIELD, pa.list_(pa.string()))] if has_slots else [])]


def _copied_tables(
    schema: pa.Schema, rows: JournalRows, source: ColumnarSource
) -> Iterator[pa.Table]:
    copied = [name for name in schema.names if name in source.schema.names and name not in _MADE]
    iterator = iter(rows)
    for batch in source.batches(batch_rows=GROUP_ROWS, columns=copied or None):
        group = list(islice(iterator, batch.num_rows))
        assert len(group) == batch.num_rows, "the journal has a row for each row of the input"
        yield pa.table(
            [
                batch.column(field.name) if field.name in copied else column(group, field)
                for field in schema
            ],
            schema=schema,
        )


def _table(rows: list[dict[str, object]], schema: pa.Schema) -> pa.Table:
    return pa.table([column(rows, field) for field in schema], schema=schema)


def column(rows: list[dict[str, object]], field: pa.Field) -> pa.Array:
    """One column of rows of the output."""
    values = [row.get(field.name) for row in rows]
    if (field.metadata or {}).get(b"starr_engine") == b"json":
        values = [None if value is None else json.dumps(value) for value in values]
    return pa.array(values, type=field.type)


def _inferred_schema(rows: JournalRows) -> pa.Schema:
    types: dict[str, pa.DataType | None] = {"id": pa.null()}  # None: no common type
    for group in _groups(rows):
        for name in dict.fromkeys(name for row in group for name in row):
            if name not in _MADE:
                values = [row.get(name) for row in group]
                types[name] = _common_type(types.get(name, pa.null()), values)
    return pa.schema([*(_inferred_field(name, kind) for name, kind in types.items()),
                      *_RESULT_SCHEMA])  # fmt: skip


def _common_type(before: pa.DataType | None, values: list[object]) -> pa.DataType | None:
    if before is None:
        return None
    try:
        now = pa.array(values).type
        merged = pa.unify_schemas(
            [pa.schema([("x", before)]), pa.schema([("x", now)])], promote_options="permissive"
        )
    except (pa.ArrowException, UnicodeEncodeError, OverflowError):
        return None
    kind: pa.DataType = merged.field("x").type
    return kind


def _inferred_field(name: str, kind: pa.DataType | None) -> pa.Field:
    if kind is None or _has_empty_struct(kind):
        return pa.field(name, pa.string(), metadata={"starr_engine": "json"})
    return pa.field(name, pa.string() if pa.types.is_null(kind) else kind)


def _has_empty_struct(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind) and kind.num_fields == 0:
        return True
    return any(_has_empty_struct(kind.field(place).type) for place in range(kind.num_fields))


_OPTIONAL: Final = frozenset(OPTIONAL_SCHEMA.names)
_MADE: Final = _OPTIONAL.union(_RESULT_SCHEMA.names)
