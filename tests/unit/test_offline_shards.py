"""The output as a folder of shards: the same rows, in one step, with a manifest that is true."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from starr_engine.errors import CapacityError, ConfigError
from starr_engine.offline import shards
from starr_engine.offline.job import BatchJob, run_batch_job
from starr_engine.offline.journal import journal_path
from starr_engine.offline.reader import open_source
from tests.helpers.fake_llm import FakeLLM

COUNT = 50


def write_input(path: Path, count: int = COUNT) -> Path:
    rows = [{"id": f"r{i}", "prompt": f"problem {i}", "gold": i / 2} for i in range(count)]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=7)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(source: Path, output: Path, **job: object) -> None:
    run_batch_job(FakeLLM(), BatchJob(input=source, output=output, **job))  # type: ignore[arg-type]


@pytest.mark.parametrize("inputs", ["in.jsonl", "in.parquet"])
@pytest.mark.parametrize("output", ["out.jsonl", "out.parquet"])
@pytest.mark.parametrize("shard_rows", [1, 20, 25, 1000])
def test_the_shards_together_are_the_one_file(
    tmp_path: Path, inputs: str, output: str, shard_rows: int
):
    source = write_input(tmp_path / inputs)
    whole, folder = tmp_path / f"whole-{output}", tmp_path / output
    run(source, whole)
    run(source, folder, shard_rows=shard_rows)
    paths = sorted(path for path in folder.iterdir() if path.name != "manifest.json")
    if output.endswith("parquet"):
        pieces = [pq.read_table(path) for path in paths]
        assert pa.concat_tables(pieces).equals(pq.read_table(whole))
        sizes = [piece.num_rows for piece in pieces]
    else:
        assert b"".join(path.read_bytes() for path in paths) == whole.read_bytes()
        sizes = [path.read_bytes().count(b"\n") for path in paths]
    assert sizes == [min(shard_rows, COUNT - i) for i in range(0, COUNT, shard_rows)]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["num_rows"] == COUNT
    assert manifest["settings"]["model"] == "fake"
    assert manifest["shards"] == [
        {"file": path.name, "num_rows": size,
         "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path, size in zip(paths, sizes, strict=True)
    ]  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} == {inputs, output, whole.name}


def test_the_folder_is_an_input_of_the_next_job(tmp_path: Path):
    run(write_input(tmp_path / "in.jsonl"), tmp_path / "out.jsonl", shard_rows=20)
    assert [row.columns["id"] for row in open_source(tmp_path / "out.jsonl").rows()] == [
        f"r{i}" for i in range(COUNT)
    ]


@pytest.mark.parametrize("output", ["out.jsonl", "out.parquet"])
def test_no_row_gives_one_empty_shard(tmp_path: Path, output: str):
    run(write_input(tmp_path / "in.jsonl", 0), tmp_path / output, shard_rows=20)
    assert len(list((tmp_path / output).iterdir())) == 2
    assert open_source(tmp_path / output).num_rows == 0


@pytest.mark.parametrize("before", [None, 20])
@pytest.mark.parametrize("after", [None, 30])
def test_files_and_folders_replace_each_other_if_asked(
    tmp_path: Path, before: int | None, after: int | None
):
    source, output = write_input(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    run(source, output, shard_rows=before)
    with pytest.raises(ConfigError, match="exists already"):
        run(source, output, shard_rows=after)
    run(source, output, shard_rows=after, overwrite=True)
    assert output.is_dir() == (after is not None)
    assert open_source(output).num_rows == COUNT
    assert {path.name for path in tmp_path.iterdir()} == {"in.jsonl", "out.jsonl"}


def test_a_disk_that_fills_up_leaves_the_journal_and_no_half_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source, output = write_input(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"

    def fail(path: Path) -> str:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shards, "_digest", fail)
        with pytest.raises(CapacityError, match=f"holds {COUNT} complete rows"):
            run(source, output, shard_rows=20)
    assert journal_path(output).exists()
    assert not output.exists()
    assert not output.with_name("out.jsonl.converting.partial").exists()
    run(source, output, shard_rows=20, resume=True)
    assert open_source(output).num_rows == COUNT


def test_a_shard_has_at_least_one_row(tmp_path: Path):
    with pytest.raises(ConfigError, match="shard_rows must be at least 1, got 0"):
        run(write_input(tmp_path / "in.jsonl"), tmp_path / "out.jsonl", shard_rows=0)
