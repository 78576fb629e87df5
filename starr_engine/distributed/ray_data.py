"""Ray Data: an engine as a step of one's own pipeline, and a data set as the input of a job."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Final

import pyarrow as pa

from starr_engine.config import EngineConfig
from starr_engine.errors import ConfigError
from starr_engine.offline.json_lines import json_line
from starr_engine.offline.loop import RowLoop
from starr_engine.offline.parquet import OPTIONAL_SCHEMA, column, result_fields
from starr_engine.offline.rows import RawRow, is_carried
from starr_engine.offline.runner import BatchLLM, OutputRow
from starr_engine.offline.source import BATCH_ROWS, ColumnarSource, python_rows
from starr_engine.params import SamplingParams

_ASKED_BY: Final = {
    "logprobs": ("logprobs",),
    "drift": ("cache_probe_rate", "cache_args"),
    "samples": ("n",),
}
"""Columns of the output that not all jobs have, and what of the parameters or columns asks."""


class Generate:
    """A step for ``map_batches`` that holds an engine.

    Takes and gives Arrow tables. The columns of a row are those of a batch job, and so is what
    becomes of them, in the order of the rows: ``id``, the carried columns, the results.

    A table is run to its end before the next one comes, so its last rows leave the batch half
    empty: give ``map_batches`` a ``batch_size`` of many times ``max_num_requests``.

    Args:
        engine: None takes the defaults.
        params: What a row asks for unless it says otherwise.

    Raises:
        ConfigError: If the model or an option cannot be used.

    Examples:
        >>> dataset.map_batches(
        ...     Generate,
        ...     fn_constructor_kwargs={"engine": EngineConfig(model="tiny-llada")},
        ...     batch_format="pyarrow", batch_size=512, num_gpus=1,
        ...     compute=ray.data.ActorPoolStrategy(size=4),
        ... )
    """

    def __init__(
        self, engine: EngineConfig | None = None, params: SamplingParams | None = None
    ) -> None:
        self._params: Final = params or SamplingParams()
        self._llm: Final = self.make_llm(engine or EngineConfig())

    def make_llm(self, engine: EngineConfig) -> BatchLLM:
        """Load the model."""
        from starr_engine.llm import LLM

        return LLM(**{name: getattr(engine, name) for name in engine.__dataclass_fields__})

    def __call__(self, table: pa.Table) -> pa.Table:
        """Run all rows of a table.

        Raises:
            ConfigError: If it is no Arrow table.
        """
        if not isinstance(table, pa.Table):
            raise ConfigError(
                f"Generate takes Arrow tables, got {type(table).__name__}: call "
                f'map_batches(..., batch_format="pyarrow")'
            )
        rows: list[OutputRow] = []
        loop = RowLoop(
            self._llm,
            defaults=self._params,
            window=max(1, table.num_rows),
            emit=rows.append,
            is_stopped=lambda: False,
        )
        loop.run(_raw_rows(table))
        kept = [field for field in table.schema if field.name == "id" or is_carried(field.name)]
        made = [*result_fields(table.schema.names), *self._optional_fields(table.schema.names)]
        return pa.table(
            [*(table.column(field.name) for field in kept), *(column(rows, each) for each in made)],
            schema=pa.schema([*kept, *made]),
        )

    def _optional_fields(self, columns: list[str]) -> list[pa.Field]:
        """Decided by what is asked and not by what came, so that all blocks have one schema."""
        is_asked = {
            "logprobs": self._params.logprobs is not None,
            "drift": bool(self._params.cache_probe_rate or self._params.cache_args),
            "samples": self._params.n > 1,
        }
        return [
            field
            for field in OPTIONAL_SCHEMA
            if is_asked[field.name] or any(name in columns for name in _ASKED_BY[field.name])
        ]


def _raw_rows(table: pa.Table) -> Iterator[RawRow]:
    each = (row for batch in table.to_batches(BATCH_ROWS) for row in python_rows(batch))
    for index, columns in enumerate(each):
        if isinstance(columns, str):
            yield RawRow(index=index, error=columns)
        else:
            yield RawRow(index=index, columns=columns)


class RayDataset(ColumnarSource):
    """A ``ray.data.Dataset`` as the input of a batch job.

    The data set is computed once, with its order kept, and stays in Ray's object store. A job can
    be resumed if the same rows come in the same order again.

    Args:
        dataset: Its rows are as those of a file.
        name: For messages.
    """

    def __init__(self, dataset: Any, name: str = "the Ray data set") -> None:
        self.name = name
        options = dataset.context.execution_options
        before, options.preserve_order = options.preserve_order, True
        try:
            self._dataset: Final = dataset.materialize()
        finally:
            options.preserve_order = before
        digest = hashlib.sha256()
        self.num_rows = 0
        # Blocks may differ in what they know of a type: one may hold nothing but nulls.
        self.schema = pa.schema([])
        for table in self._tables(BATCH_ROWS):
            self.schema = pa.unify_schemas(
                [self.schema, table.schema], promote_options="permissive"
            )
            self.num_rows += table.num_rows
            for batch in table.to_batches():
                for columns in python_rows(batch):
                    digest.update(columns.encode() if isinstance(columns, str) else
                                  json_line(columns))  # fmt: skip
        self.fingerprint = f"sha256:{digest.hexdigest()}"

    def _tables(self, batch_rows: int) -> Iterator[pa.Table]:
        yield from self._dataset.iter_batches(batch_size=batch_rows, batch_format="pyarrow")

    def batches(
        self, *, start: int = 0, batch_rows: int, columns: list[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Record batches of at most ``batch_rows`` rows, of all or of the named columns."""
        for table in self._tables(batch_rows):
            if start >= table.num_rows:
                start -= table.num_rows
                continue
            piece = table.slice(start).cast(self.schema)
            start = 0
            yield from (piece if columns is None else piece.select(columns)).to_batches()
