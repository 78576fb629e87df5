"""A folder of safetensors in the published layout: one file, or shards with an index."""

from __future__ import annotations

import json
import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from starr_engine.errors import ConfigError
from starr_engine.layers.places import Bounds, Cut

_SINGLE: Final = "model.safetensors"
_INDEX: Final = "model.safetensors.index.json"
_PICKLES: Final = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_BYTES_AT_ONCE: Final = 256 * 2**20
"""Read of a file before it is closed and opened again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorHeader:
    """What a file says of a tensor before its data is read."""

    shape: tuple[int, ...]
    dtype: str
    """In the format's own words: F32, BF16, I64, ..."""

    @property
    def num_bytes(self) -> int:
        """Of its data."""
        bits = int("".join(filter(str.isdigit, self.dtype.split("_")[0])) or 8)
        return math.prod(self.shape) * bits // 8


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorPiece:
    """Rows of what is kept of a stored tensor, from ``start`` on; maybe all of it."""

    name: str
    start: int
    values: Tensor

    def of(self, target: Tensor) -> Tensor:
        """The view of ``target``, of the shape of all that is kept, that these rows belong to."""
        if self.values.shape == target.shape:
            return target
        return target[self.start : self.start + len(self.values)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The weight files of a folder, headers read, data not."""

    headers: Mapping[str, TensorHeader]
    files: Mapping[Path, tuple[str, ...]]
    """Tensor names by file."""

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Read the headers of all weight files.

        Raises:
            ConfigError: If there are no safetensors, a shard is missing, a file is damaged, or
                index and shards disagree.
        """
        headers: dict[str, TensorHeader] = {}
        files: dict[Path, tuple[str, ...]] = {}
        for path, expected in _weight_files(folder).items():
            found = _read_headers(path)
            if expected is not None and expected != set(found):
                raise ConfigError(_index_mismatch(path, expected, set(found)))
            headers.update(found)
            files[path] = tuple(found)
        return cls(headers=headers, files=files)

    @property
    def num_bytes(self) -> int:
        """Of all tensors as they are stored."""
        return sum(header.num_bytes for header in self.headers.values())

    def without(self, prefixes: tuple[str, ...]) -> Checkpoint:
        """Without the tensors whose names begin so."""
        if not prefixes:
            return self
        return Checkpoint(
            headers={
                name: header
                for name, header in self.headers.items()
                if not name.startswith(prefixes)
            },
            files={
                path: tuple(name for name in stored if not name.startswith(prefixes))
                for path, stored in self.files.items()
            },
        )

    def pieces(
        self, names: Container[str], cuts: Mapping[str, Cut] | None = None
    ) -> Iterator[TensorPiece]:
        """Those of ``names`` that are stored, file by file; the caller holds one piece at a time.

        A piece is a tensor, or some rows of a large one. What was read of a mapped file counts as
        this process's memory until the file is closed, so that is done every now and then.

        Args:
            names: Which tensors.
            cuts: What is kept of those of which not all is; the rest is not read.
        """
        for path, stored in self.files.items():
            wanted = [name for name in stored if name in names]
            for group in _groups(wanted, self.headers, cuts or {}):
                with safe_open(path, framework="pt") as file:
                    for name, start, rows, columns in group:
                        if rows is None:
                            yield TensorPiece(name=name, start=0, values=file.get_tensor(name))
                            continue
                        part = file.get_slice(name)
                        index = (slice(*rows), *([] if columns is None else [slice(*columns)]))
                        yield TensorPiece(name=name, start=start, values=part[index])


class _Reading(NamedTuple):
    """What is read of one tensor at once."""

    name: str
    start: int
    """Where it goes: a row of what is kept."""

    rows: Bounds | None
    """Of the stored tensor; None for all of it."""

    columns: Bounds | None


def _groups(
    names: Sequence[str], headers: Mapping[str, TensorHeader], cuts: Mapping[str, Cut]
) -> Iterator[list[_Reading]]:
    """Everything to read, in groups of about as many bytes at once."""
    group: list[_Reading] = []
    size = 0
    for name in names:
        for reading in _readings(name, headers[name], cuts.get(name)):
            rows, header = reading.rows, headers[name]
            share = 1.0 if rows is None else (rows[1] - rows[0]) / max(1, header.shape[0])
            num_bytes = int(header.num_bytes * share)
            if group and size + num_bytes > _BYTES_AT_ONCE:
                yield group
                group, size = [], 0
            group.append(reading)
            size += num_bytes
    if group:
        yield group


def _readings(name: str, header: TensorHeader, cut: Cut | None) -> Iterator[_Reading]:
    if cut is None and (header.num_bytes <= _BYTES_AT_ONCE or not header.shape):
        yield _Reading(name, 0, None, None)
        return
    num_rows = header.shape[0]
    at_once = max(1, num_rows * _BYTES_AT_ONCE // max(1, header.num_bytes))
    ranges = ((0, num_rows),) if cut is None or cut.rows is None else cut.rows
    kept = 0
    for first, last in ranges:
        for start in range(first, last, at_once):
            stop = min(start + at_once, last)
            yield _Reading(name, kept, (start, stop), None if cut is None else cut.columns)
            kept += stop - start


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a model folder.

    Raises:
        ConfigError: If the file does not hold a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid JSON ({error}); fetch it again") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def _weight_files(folder: Path) -> dict[Path, set[str] | None]:
    """Weight files and the tensors that the index promises in each; None without an index."""
    index = folder / _INDEX
    if not index.is_file():
        if (folder / _SINGLE).is_file():
            return {folder / _SINGLE: None}
        raise ConfigError(_no_weights(folder))
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ConfigError(f"{index} must have a weight_map from tensor names to file names")
    shards: dict[Path, set[str] | None] = {}
    for name, file_name in weight_map.items():
        if not isinstance(file_name, str) or Path(file_name).name != file_name:
            raise ConfigError(f"{index} must name files in its own folder, got {file_name!r}")
        promised = shards.setdefault(folder / file_name, set())
        assert promised is not None
        promised.add(name)
    if missing := sorted(path.name for path in shards if not path.is_file()):
        raise ConfigError(
            f"{folder} lacks {len(missing)} of the {len(shards)} shards that {_INDEX} names: "
            f"{', '.join(missing[:10])}; fetch them again"
        )
    return shards


def _no_weights(folder: Path) -> str:
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        return (
            f"{folder} holds weights only as {', '.join(pickles[:3])}, a format that can run code "
            "when it is read, which is refused; save the weights as safetensors"
        )
    return f"{folder} holds no weights: expected {_SINGLE}, or {_INDEX} and the shards it names"


def _read_headers(path: Path) -> dict[str, TensorHeader]:
    try:
        with safe_open(path, framework="pt") as file:
            slices = ((name, file.get_slice(name)) for name in file.keys())  # noqa: SIM118 - no dict
            return {
                name: TensorHeader(shape=tuple(part.get_shape()), dtype=part.get_dtype())
                for name, part in slices
            }
    except (SafetensorError, OSError) as error:
        raise ConfigError(
            f"{path} is damaged or not a safetensors file ({error}); fetch it again"
        ) from error


def _index_mismatch(path: Path, expected: set[str], found: set[str]) -> str:
    parts = [
        f"{what}: {', '.join(sorted(names)[:10])}"
        for what, names in (("absent", expected - found), ("not in the index", found - expected))
        if names
    ]
    return f"{path} does not hold the tensors that {_INDEX} says; {'; '.join(parts)}"
