"""Batch rows with several samples and with log-probabilities, in and out of both formats."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from starr_engine import LLM, SamplingParams
from starr_engine.offline.job import BatchJob, run_batch_job
from starr_engine.offline.rows import logprob_objects, sample_object
from tests.helpers.fake_llm import POISON, FakeLLM
from tests.helpers.word_models import write_word_model

PARAMS = SamplingParams(max_tokens=8, block_length=4, ignore_eos=True, temperature=1.0)
ROWS: list[dict[str, Any]] = [
    {"id": 0, "prompt": "w1 w2"},
    {"id": 1, "prompt": "w1 w2", "n": 3, "seed": 5},
    {"id": 2, "prompt": "w3", "logprobs": 2},
    {"id": 3, "prompt": "w3", "logprobs": 0, "n": 2},
    {"id": 4, "prompt": "w4", "n": 2, "temperature": 0},
    {"id": 5, "prompt": "w4", "n": 2, "logit_bias": {"999": 1}},
    {"id": 6, "prompt": "w4", "logit_bias": {"17": 100}},
    {"id": 7, "prompt": "w5", "cache_probe_rate": 1},
    {"id": 8, "prompt": "w5", "cache_probe_rate": 0.5, "n": 2},
]


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    return LLM(str(write_word_model(tmp_path_factory.mktemp("words"))), device="cpu")


def run(llm: Any, folder: Path, rows: list[dict], kind: str, source: str = "jsonl") -> list[dict]:
    path, output = folder / f"in.{source}", folder / f"{source}-out.{kind}"
    if source == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        names = {name for row in rows for name in row}
        pq.write_table(pa.Table.from_pylist([dict.fromkeys(names) | row for row in rows]), path)
    run_batch_job(llm, BatchJob(input=path, output=output, params=PARAMS))
    if kind == "parquet":
        return pq.read_table(output).to_pylist()
    return [json.loads(line) for line in output.read_text().splitlines()]


def test_rows_equal_what_the_library_gives(llm: LLM, tmp_path: Path) -> None:
    rows = run(llm, tmp_path, ROWS, "jsonl")
    assert [row["id"] for row in rows] == list(range(9))
    expected = llm.generate(
        ["w1 w2", "w1 w2", "w3", "w3"],
        [PARAMS.with_overrides({k: v for k, v in row.items() if k not in ("id", "prompt")})
         for row in ROWS[:4]],
    )  # fmt: skip
    for row, output in zip(rows, expected, strict=False):
        assert (row["text"], row["token_ids"]) == (output.text, list(output.token_ids))
        assert (row["nfe"], row["error"]) == (output.nfe, None)
    assert "logprobs" not in rows[0]
    assert "samples" not in rows[0]
    assert rows[1]["samples"] == [sample_object(sample) for sample in expected[1].samples]
    assert rows[1]["samples"][0]["text"] == rows[1]["text"]
    assert len({sample["text"] for sample in rows[1]["samples"]}) == 3
    close = pytest.approx(
        [token["logprob"] for token in logprob_objects(expected[2].logprobs or ())]
    )
    assert [token["logprob"] for token in rows[2]["logprobs"]] == close
    assert [len(token["top"]) for token in rows[2]["logprobs"]] == [2] * 8
    assert [len(sample["logprobs"]) for sample in rows[3]["samples"]] == [8, 8]
    assert "n=2 samples at temperature 0" in rows[4]["error"]
    assert "names token 999, outside the vocabulary" in rows[5]["error"]
    assert rows[6]["token_ids"] == [17] * 8


@pytest.mark.parametrize("source", ["jsonl", "parquet"])
def test_parquet_has_the_same_columns_and_types_of_their_own(
    llm: LLM, tmp_path: Path, source: str
) -> None:
    # No struct with keys of all rows: Parquet cannot leave a key out.
    rows = [row for row in ROWS if "logit_bias" not in row]
    lines = run(llm, tmp_path, rows, "jsonl", source)
    table = run(llm, tmp_path, rows, "parquet", source)
    for line, row in zip(lines, table, strict=True):
        for sample in line.get("samples") or ():
            sample.setdefault("logprobs", None)
            sample.setdefault("drift", None)
        assert row == line | {name: line.get(name) for name in ("logprobs", "drift", "samples")}
    schema = pq.read_schema(tmp_path / f"{source}-out.parquet")
    assert schema.field("logprobs").type.value_type.field("top").type.value_type.num_fields == 2


def test_rows_that_are_probed_say_how_far_the_cache_was_off(llm: LLM, tmp_path: Path) -> None:
    rows = run(llm, tmp_path, [*ROWS[:1], *ROWS[7:]], "jsonl")
    assert "drift" not in rows[0]
    [expected] = llm.generate(["w5"], PARAMS.with_overrides({"cache_probe_rate": 1.0}))
    assert expected.drift is not None
    assert rows[1]["drift"].keys() == asdict(expected.drift).keys()
    assert rows[1]["drift"]["probe_forwards"] == rows[1]["nfe"] == expected.drift.probe_forwards
    assert rows[2]["drift"] == rows[2]["samples"][0]["drift"]


def test_a_job_that_asks_for_neither_has_neither_column(llm: LLM, tmp_path: Path) -> None:
    [row] = run(llm, tmp_path, ROWS[:1], "parquet")
    assert not {"samples", "logprobs", "drift"} & set(row)


def test_a_bias_of_a_parquet_struct_has_keys_of_other_rows_as_null(
    llm: LLM, tmp_path: Path
) -> None:
    rows = [
        {"prompt": "w1", "logit_bias": {"17": 100.0}},
        {"prompt": "w1", "logit_bias": {"9": 99.0}},
    ]
    first, second = run(llm, tmp_path, rows, "jsonl", "parquet")
    assert (first["token_ids"], second["token_ids"]) == ([17] * 8, [9] * 8)


def test_samples_of_many_rows_come_back_to_their_rows_in_order(tmp_path: Path) -> None:
    rows = [{"id": i, "prompt": f"p{i}", "n": 1 + i % 4, "seed": i} for i in range(40)]
    shown = run(FakeLLM(), tmp_path, rows, "jsonl")
    alone = run(FakeLLM(batch_size=1), tmp_path, rows, "parquet")
    assert [row["id"] for row in shown] == list(range(40))
    for i, (row, other) in enumerate(zip(shown, alone, strict=True)):
        assert len(row.get("samples", [0])) == 1 + i % 4
        assert row["text"] == other["text"]
        texts = [sample["text"] for sample in row.get("samples", ())]
        assert texts == [sample["text"] for sample in other["samples"] or ()]


def test_a_row_whose_samples_fail_costs_only_itself(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}", "n": 3} for i in range(6)]
    rows.insert(3, {"prompt": POISON, "n": 3})
    llm = FakeLLM(batch_size=8)
    shown = run(llm, tmp_path, rows, "jsonl")
    assert [row["error"] is None for row in shown] == [True] * 3 + [False] + [True] * 3
    assert not llm.engine.has_unfinished
    assert [len(row["samples"]) for row in shown if row["error"] is None] == [3] * 6


def test_the_summary_counts_the_forwards_of_all_samples(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"prompt": "a", "n": 4}\n{"prompt": "b"}\n')
    summary = run_batch_job(
        FakeLLM(), BatchJob(input=source, output=tmp_path / "out.jsonl", params=PARAMS)
    )
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    forwards = [sample["nfe"] for sample in rows[0]["samples"]] + [rows[1]["nfe"]]
    assert summary.mean_nfe == sum(forwards) / 2
    assert summary.tpf == pytest.approx(5 * 12 / sum(forwards))  # each fake answer unmasks 12
