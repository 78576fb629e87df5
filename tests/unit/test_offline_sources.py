"""Folders of shards and saved data sets are one input, as if their rows were in one file."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from starr_engine.errors import ConfigError
from starr_engine.offline.job import BatchJob, run_batch_job
from starr_engine.offline.reader import open_source
from tests.helpers.fake_llm import FakeLLM

COUNT = 23
ROWS = [{"id": i, "prompt": f"problem {i}", "gold": i / 2} for i in range(COUNT)]
CUTS = ((0, 5), (5, 5), (5, 17), (17, COUNT))  # one shard is empty


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def jsonl_folder(folder: Path) -> Path:
    for number, (low, high) in enumerate(CUTS):
        write_jsonl(folder / f"part-{number}.jsonl", ROWS[low:high])
    (folder / "_SUCCESS.jsonl").write_text("not a shard")
    (folder / "README.md").write_text("not a shard")
    return folder


def parquet_folder(folder: Path) -> Path:
    schema = pa.Table.from_pylist(ROWS).schema
    for number, (low, high) in enumerate(CUTS):
        table = pa.Table.from_pylist(ROWS[low:high], schema=schema)
        pq.write_table(table, folder / f"part-{number}.parquet", row_group_size=3)
    return folder


def saved_dataset(folder: Path) -> Path:
    """As ``datasets`` 4 writes one: Arrow streams, named in their order by ``state.json``."""
    table = pa.Table.from_pylist(ROWS)
    names = []
    # The order of the state, not that of the names, counts.
    for number, (low, high) in enumerate(CUTS):
        names.append(f"data-{len(CUTS) - number:05}-of-{len(CUTS):05}.arrow")
        piece = table.slice(low, high - low)
        with pa.ipc.new_stream(folder / names[-1], table.schema) as stream:
            for batch in piece.to_batches(max_chunksize=4):
                stream.write_batch(batch)
    state = {"_data_files": [{"filename": name} for name in names], "_split": "train"}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    return folder


KINDS = {"jsonl": jsonl_folder, "parquet": parquet_folder, "dataset": saved_dataset}


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return KINDS[request.param](tmp_path / "in")


@pytest.mark.parametrize("start", [0, 1, 4, 5, 6, 16, 17, 22, 23])
def test_a_folder_is_read_from_any_row(folder: Path, start: int):
    source = open_source(folder)
    rows = list(source.rows(start))
    assert source.num_rows == COUNT
    assert [(row.index, row.columns) for row in rows] == list(enumerate(ROWS))[start:]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_job_over_a_folder_gives_what_one_file_gives(folder: Path, tmp_path: Path, suffix: str):
    whole, output = tmp_path / f"whole.{suffix}", tmp_path / f"out.{suffix}"
    one = write_jsonl(tmp_path / "in.jsonl", ROWS)
    run_batch_job(FakeLLM(), BatchJob(input=one, output=whole))
    run_batch_job(FakeLLM(), BatchJob(input=folder, output=output))
    if suffix == "parquet":
        assert pq.read_table(output).equals(pq.read_table(whole))
    else:
        assert output.read_bytes() == whole.read_bytes()


def test_the_fingerprint_is_that_of_the_content_of_all_shards_in_order(folder: Path):
    before = open_source(folder).fingerprint
    assert open_source(folder).fingerprint == before
    shards = [path for path in sorted(folder.iterdir()) if path.name[:5] in ("part-", "data-")]
    first, last = shards[0].read_bytes(), shards[-1].read_bytes()
    shards[0].write_bytes(last)
    shards[-1].write_bytes(first)
    assert open_source(folder).fingerprint != before


def test_a_bad_line_of_a_folder_says_which_shard_it_is_in(tmp_path: Path):
    write_jsonl(tmp_path / "a.jsonl", ROWS[:2])
    (tmp_path / "b.jsonl").write_text('{"prompt": "x"}\n{broken\n')
    row = list(open_source(tmp_path).rows())[3]
    assert row.index == 3
    assert row.error is not None
    assert row.error.startswith(f"{tmp_path / 'b.jsonl'}: line 2 is not JSON")


def test_what_is_no_input_is_refused_with_what_to_give(tmp_path: Path):
    def refused(name: str, *parts: str) -> None:
        with pytest.raises(ConfigError) as caught:
            open_source(tmp_path / name)
        for part in parts:
            assert part in str(caught.value)

    for name in ("empty", "mixed", "columns", "splits", "lies", "torn", "climbs"):
        (tmp_path / name).mkdir()
    refused("absent", "does not exist")
    refused("empty", "no file with a suffix of .jsonl, .ndjson, .parquet")
    write_jsonl(tmp_path / "mixed" / "a.jsonl", ROWS)
    pq.write_table(pa.table({"prompt": ["x"]}), tmp_path / "mixed" / "b.parquet")
    refused("mixed", "JSONL and Parquet", "a folder of its own")
    pq.write_table(pa.table({"prompt": ["x"]}), tmp_path / "columns" / "a.parquet")
    pq.write_table(pa.table({"prompt": [1]}), tmp_path / "columns" / "b.parquet")
    refused("columns", "b.parquet are not those of", "a.parquet")
    (tmp_path / "splits" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    refused("splits", "train, test", "give the folder of one")
    (tmp_path / "lies" / "state.json").write_text('{"_data_files": [{"filename": "x.arrow"}]}')
    refused("lies", "x.arrow", "No such file")
    (tmp_path / "torn" / "state.json").write_text('{"_data_files": [{"filename": "x.arrow"}]}')
    (tmp_path / "torn" / "x.arrow").write_bytes(b"\xff\xff\xff\xff\x10\x00")
    refused("torn", "x.arrow is not an Arrow stream")
    (tmp_path / "climbs" / "state.json").write_text('{"_data_files": [{"filename": "../x.arrow"}]}')
    refused("climbs", "'../x.arrow', which is no file of the folder")


def test_the_output_may_not_be_a_shard_of_the_input(tmp_path: Path):
    jsonl_folder(tmp_path)
    with pytest.raises(ConfigError, match="in the input's folder"):
        run_batch_job(FakeLLM(), BatchJob(input=tmp_path, output=tmp_path / "out.jsonl"))
