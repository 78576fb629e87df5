"""Ray Data: the operator gives the rows of a batch job, and a data set is an input like a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from starr_engine.config import EngineConfig
from starr_engine.distributed import Workers
from starr_engine.distributed.batch import run_workers
from starr_engine.distributed.ray_data import Generate, RayDataset
from starr_engine.errors import ConfigError
from starr_engine.offline.job import BatchJob, run_batch_job
from starr_engine.offline.runner import BatchLLM
from starr_engine.params import SamplingParams
from tests.helpers.fake_llm import FakeLLM
from tests.helpers.ray_jobs import prompts, small_ray
from tests.helpers.ray_workers import FakeWorker

pytestmark = [
    pytest.mark.slow,
    # Ray Data warns of options of its own that nobody has set.
    pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning"),
]

RESULTS = ["text", "token_ids", "finish_reason", "nfe", "tpf", "cache_label", "error"]


class FakeGenerate(Generate):
    def make_llm(self, engine: EngineConfig) -> BatchLLM:
        return FakeLLM(batch_size=4)


@pytest.fixture(scope="module")
def _ray() -> Iterator[None]:
    with small_ray():
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield


def rows_with_gold(count: int) -> list[dict]:
    return [{**row, "gold": {"answer": i}} for i, row in enumerate(prompts(count))]


def table_of_job(folder: Path, rows: list[dict]) -> pa.Table:
    pq.write_table(pa.Table.from_pylist(rows), folder / "in.parquet")
    job = BatchJob(input=folder / "in.parquet", output=folder / "whole.parquet")
    run_batch_job(FakeLLM(), job)
    return pq.read_table(job.output)


def test_a_table_comes_back_as_the_parquet_file_of_a_job(tmp_path: Path):
    rows = rows_with_gold(40)
    rows[3]["prompt"] = ""
    table = FakeGenerate()(pa.Table.from_pylist(rows))
    assert table.equals(table_of_job(tmp_path, rows))
    assert table.column_names == ["id", "gold", *RESULTS]
    assert table.column("error")[3].as_py() == "the prompt is empty"
    assert FakeGenerate()(table.slice(0, 0)).num_rows == 0


def test_the_columns_are_those_that_are_asked_for_whatever_the_rows_hold():
    table = pa.Table.from_pylist([{"prompt": "x"}])
    sampled = SamplingParams(n=2, temperature=0.5, logprobs=1)
    assert FakeGenerate()(table).column_names == RESULTS
    assert FakeGenerate(params=sampled)(table).column_names == [*RESULTS, "logprobs", "samples"]
    asked = pa.table({"prompt": ["x"], "n": pa.nulls(1), "cache_probe_rate": pa.nulls(1)})
    assert FakeGenerate()(asked).column_names == [*RESULTS, "drift", "samples"]


def test_another_batch_format_is_refused_with_the_one_to_give():
    with pytest.raises(ConfigError, match=r'got dict: call.*batch_format="pyarrow"'):
        FakeGenerate()({"prompt": ["x"]})


@pytest.mark.usefixtures("_ray")
def test_the_operator_runs_in_the_actors_of_a_pipeline(tmp_path: Path):
    rows = rows_with_gold(60)
    dataset = ray.data.from_items(rows, override_num_blocks=3).map_batches(
        FakeGenerate,
        batch_format="pyarrow",
        batch_size=16,
        compute=ray.data.ActorPoolStrategy(size=1),
    )
    found = sorted(dataset.take_all(), key=lambda row: row["id"])
    expected = table_of_job(tmp_path, rows).to_pylist()
    assert [{**row, "token_ids": list(row["token_ids"])} for row in found] == expected


@pytest.mark.usefixtures("_ray")
def test_a_data_set_is_an_input_like_a_file(tmp_path: Path):
    rows = rows_with_gold(90)
    expected = table_of_job(tmp_path, rows)
    source = RayDataset(ray.data.from_items(rows, override_num_blocks=4))
    again = RayDataset(ray.data.from_items(rows, override_num_blocks=7))
    other = RayDataset(ray.data.from_items(rows[::-1], override_num_blocks=4))
    assert source.num_rows == 90
    assert source.fingerprint == again.fingerprint != other.fingerprint
    assert [row.index for row in source.rows(33)] == list(range(33, 90))
    assert [row.columns for row in source.rows(33)] == rows[33:]
    output = tmp_path / "out.parquet"
    engine = EngineConfig(model="fake", device="cpu", max_num_requests=4)
    run_workers(BatchJob(input=source, output=output), engine, Workers(count=2), FakeWorker)
    assert pq.read_table(output).equals(expected)
