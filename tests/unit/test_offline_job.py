"""Whole jobs on the fake engine: every row once, in order, whatever its neighbours do."""

from __future__ import annotations

import datetime
import json
import os
import signal
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from starr_engine.errors import ConfigError, KernelError, StarrError
from starr_engine.offline.job import BatchInterruptedError, BatchJob, run_batch_job
from starr_engine.offline.journal import journal_path, settings_path
from starr_engine.params import SamplingParams
from tests.helpers.fake_llm import POISON, FakeLLM


def write_jsonl(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def prompts(count: int) -> list[dict]:
    return [{"id": f"r{i}", "prompt": f"problem {i}", "gold": i * i} for i in range(count)]


def run(folder: Path, rows: list, *, output: str = "out.jsonl", llm: FakeLLM | None = None, **job):
    source = write_jsonl(folder / "in.jsonl", rows)
    summary = run_batch_job(llm or FakeLLM(), BatchJob(input=source, output=folder / output, **job))
    return summary, (read_jsonl(folder / output) if output.endswith("l") else None)


def test_rows_come_out_once_each_in_the_order_they_came(tmp_path: Path):
    summary, rows = run(tmp_path, prompts(57))
    assert [(row["id"], row["gold"]) for row in rows] == [(f"r{i}", i * i) for i in range(57)]
    assert all(row["error"] is None and len(row["text"]) == 8 for row in rows)
    assert (summary.num_rows, summary.num_errors, summary.num_resumed) == (57, 0, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_the_summary_adds_up_the_rows(tmp_path: Path):
    summary, rows = run(tmp_path, [*prompts(20), {"prompt": ""}])
    forwards = sum(row["nfe"] for row in rows[:-1])
    assert summary.mean_nfe == forwards / 20
    assert summary.tpf == pytest.approx(20 * 12 / forwards)  # each fake answer unmasks 12
    assert summary.num_errors == 1
    assert summary.tokens_per_s * summary.wall_s == pytest.approx(20 * 8, rel=0.2)


def test_an_empty_input_gives_an_empty_output(tmp_path: Path):
    summary, rows = run(tmp_path, [])
    assert (rows, summary.num_rows, summary.mean_nfe, summary.tpf) == ([], 0, 0, 0)


def test_bad_rows_get_their_error_and_all_others_finish(tmp_path: Path):
    good = prompts(9)
    source = tmp_path / "in.jsonl"
    lines = [json.dumps(row) for row in good]
    lines[2:2] = ["{broken", "[1, 2]", '{"prompt": "a", "max_tokens": 0}', '{"x": NaN}']
    lines.append(json.dumps({"prompt": "y" * 2000}))
    source.write_bytes("\n".join(lines).encode() + b'\n\n{"prompt": "\xff"}\n{"prompt":"\\ud800"}')
    run_batch_job(FakeLLM(), BatchJob(input=source, output=tmp_path / "out.jsonl"))
    rows = read_jsonl(tmp_path / "out.jsonl")
    assert [row.get("id") for row in rows if row["error"] is None] == [row["id"] for row in good]
    errors = [row["error"] for row in rows if row["error"] is not None]
    expected = [
        "line 3 is not JSON", "line 4 must be a JSON object, got a list", "a positive integer",
        "line 6 is not JSON: NaN", "the model allows 1024 together", "line 16 is not JSON",
        "surrogates",
    ]  # fmt: skip
    assert len(errors) == len(expected)
    for error, part in zip(errors, expected, strict=True):
        assert part in error
    assert all(row["text"] is None and row["nfe"] is None for row in rows if row["error"])


def test_a_request_that_makes_a_step_fail_is_the_only_one_to_lose(tmp_path: Path):
    rows = prompts(30)
    rows[11]["prompt"] = rows[12]["prompt"] = f"a {POISON} b"
    _, output = run(tmp_path, rows)
    errors = {row["id"]: row["error"] for row in output if row["error"]}
    assert errors == {"r11": "no pages for row-11", "r12": "no pages for row-12"}
    assert [row["id"] for row in output] == [row["id"] for row in rows]


def test_an_engine_that_cannot_work_at_all_stops_the_job_with_the_journal_kept(tmp_path: Path):
    llm = FakeLLM()
    steps = iter(range(1000))
    step = llm.engine.step

    def failing_step():
        if next(steps) == 10:
            raise KernelError("the extension is missing")
        return step()

    llm.engine.step = failing_step
    with pytest.raises(KernelError):
        run(tmp_path, prompts(30), llm=llm)
    kept = read_jsonl(journal_path(tmp_path / "out.jsonl"))
    assert 0 < len(kept) < 30
    summary, rows = run(tmp_path, prompts(30), resume=True)
    assert (len(rows), summary.num_resumed) == (30, len(kept))


def test_at_most_window_rows_are_between_the_first_unfinished_and_the_last_read(tmp_path: Path):
    llm = FakeLLM(batch_size=4)
    _, rows = run(tmp_path, prompts(40), llm=llm, window=3)
    assert len(rows) == 40
    assert llm.engine.most_in_flight == 3


def test_the_engine_is_kept_full(tmp_path: Path):
    llm = FakeLLM(batch_size=4)
    run(tmp_path, prompts(40), llm=llm)
    assert llm.engine.most_in_flight == 8  # four that run and four that replace them


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_what_is_finished_and_says_how_to_go_on(tmp_path: Path, number: int, code):
    whole, expected = run(tmp_path, prompts(30), output="whole.jsonl")
    llm = FakeLLM()
    steps = iter(range(1000))
    step = llm.engine.step

    def interrupted_step():
        if next(steps) == 8:
            os.kill(os.getpid(), number)
        return step()

    llm.engine.step = interrupted_step
    handler = signal.getsignal(number)
    with pytest.raises(BatchInterruptedError, match=r"complete rows.*--resume") as caught:
        run(tmp_path, prompts(30), llm=llm)
    assert caught.value.exit_code == code
    assert signal.getsignal(number) is handler
    assert not (tmp_path / "out.jsonl").exists()
    summary, rows = run(tmp_path, prompts(30), resume=True)
    assert rows == expected
    assert summary.num_resumed > 0
    assert (summary.mean_nfe, summary.tpf) == pytest.approx((whole.mean_nfe, whole.tpf))


def interrupt(tmp_path: Path, count: int = 30, **job) -> None:
    """Leave a journal behind."""
    llm = FakeLLM()
    steps = iter(range(1000))
    step = llm.engine.step

    def interrupted_step():
        if next(steps) == 8:
            raise KernelError("stop here")
        return step()

    llm.engine.step = interrupted_step
    with pytest.raises(KernelError):
        run(tmp_path, prompts(count), llm=llm, **job)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"params": SamplingParams(seed=1)}, "seed was 0 and is now 1"),
        ({"params": SamplingParams(remasking_args={"a": 1})}, r"remasking_args was {} and is now"),
        ({"llm": FakeLLM(quantization="int8")}, 'quantization was "none" and is now "int8"'),
        ({"llm": FakeLLM(model="other")}, 'model was "fake" and is now "other"'),
        ({"rows": prompts(31)}, "input was"),
    ],
)
def test_resuming_with_other_settings_or_another_input_is_refused(
    tmp_path: Path, change: dict, problem: str
):
    interrupt(tmp_path)
    before = journal_path(tmp_path / "out.jsonl").read_bytes()
    with pytest.raises(ConfigError, match=problem):
        run(tmp_path, change.pop("rows", prompts(30)), resume=True, **change)
    assert journal_path(tmp_path / "out.jsonl").read_bytes() == before


def test_another_batch_size_may_resume(tmp_path: Path):
    interrupt(tmp_path)
    summary, rows = run(tmp_path, prompts(30), resume=True, llm=FakeLLM(batch_size=2))
    assert len(rows) == 30
    assert summary.num_resumed > 0


def test_a_journal_in_the_way_is_refused_with_both_ways_out(tmp_path: Path):
    interrupt(tmp_path)
    with pytest.raises(ConfigError, match=r"--resume to continue it or --overwrite"):
        run(tmp_path, prompts(30))
    summary, rows = run(tmp_path, prompts(30), overwrite=True)
    assert (len(rows), summary.num_resumed) == (30, 0)


def test_resume_without_a_journal_starts(tmp_path: Path):
    summary, rows = run(tmp_path, prompts(3), resume=True)
    assert (len(rows), summary.num_resumed) == (3, 0)


def test_a_journal_without_its_settings_is_not_resumed(tmp_path: Path):
    interrupt(tmp_path)
    settings_path(tmp_path / "out.jsonl").unlink()
    with pytest.raises(ConfigError, match="cannot resume"):
        run(tmp_path, prompts(30), resume=True)


def test_an_existing_output_is_kept_unless_overwrite(tmp_path: Path):
    (tmp_path / "out.jsonl").write_text("precious")
    with pytest.raises(ConfigError, match=r"exists already.*--overwrite"):
        run(tmp_path, prompts(3))
    assert (tmp_path / "out.jsonl").read_text() == "precious"
    _, rows = run(tmp_path, prompts(3), overwrite=True)
    assert len(rows) == 3


@pytest.mark.parametrize(
    ("job", "problem"),
    [
        ({"output": "out.csv"}, "suffix says the format"),
        ({"output": "nowhere/out.jsonl"}, "folder of the output does not exist"),
        ({"output": "in.jsonl", "overwrite": True}, "is the input"),
        ({"window": 0}, "window must be at least 1"),
    ],
)
def test_a_job_that_cannot_work_is_refused_at_the_start(tmp_path: Path, job: dict, problem: str):
    with pytest.raises(ConfigError, match=problem):
        run(tmp_path, prompts(3), **job)


def test_a_missing_input_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"no\.jsonl does not exist"):
        run_batch_job(
            FakeLLM(), BatchJob(input=tmp_path / "no.jsonl", output=tmp_path / "out.jsonl")
        )


def test_an_input_that_is_not_parquet_is_named(tmp_path: Path):
    (tmp_path / "in.parquet").write_text("hello")
    with pytest.raises(ConfigError, match="is not a Parquet file"):
        run_batch_job(
            FakeLLM(), BatchJob(input=tmp_path / "in.parquet", output=tmp_path / "out.jsonl")
        )


def test_an_input_that_shrinks_during_the_run_is_noticed(tmp_path: Path):
    llm = FakeLLM()
    step = llm.engine.step

    def shrinking_step():
        source = tmp_path / "in.jsonl"
        os.truncate(source, source.stat().st_size // 2)
        llm.engine.step = step
        return step()

    llm.engine.step = shrinking_step
    with pytest.raises(StarrError, match="changed while the job ran: it had 3000 rows"):
        run(tmp_path, prompts(3000), llm=llm)
    assert not (tmp_path / "out.jsonl").exists()


MIXED = [
    {"id": "a", "prompt": "one", "meta": {"k": 1, "tags": ["x"]}},
    {"id": "b", "messages": [{"role": "user", "content": "two"}], "max_tokens": 32},
    {"id": "c", "prompt_token_ids": [1, 2, 3], "remasking_args": {"threshold": 0.5}},
    {"id": "d", "prompt": "", "meta": {"k": 2, "tags": []}},
    {"id": "e", "prompt": "five", "stop": ["x", "y"], "note": "n"},
]


def test_parquet_and_jsonl_say_the_same_in_every_combination(tmp_path: Path):
    write_jsonl(tmp_path / "in.jsonl", MIXED)
    pq.write_table(pa.Table.from_pylist(_full(MIXED)), tmp_path / "in.parquet", row_group_size=2)
    results = []
    for source in ("in.jsonl", "in.parquet"):
        for kind in ("jsonl", "parquet"):
            output = tmp_path / f"{source}-out.{kind}"
            run_batch_job(FakeLLM(), BatchJob(input=tmp_path / source, output=output))
            rows = read_jsonl(output) if kind == "jsonl" else pq.read_table(output).to_pylist()
            results.append(_full(rows))
    assert [row["error"] is None for row in results[0]] == [True, True, True, False, True]
    assert results[0][0]["meta"] == {"k": 1, "tags": ["x"]}
    assert results[0] == results[1] == results[2] == results[3]


def _full(rows: list[dict]) -> list[dict]:
    """Every column in every row, sorted: null and absent are the same to the job."""
    names = sorted({name for row in rows for name in row})
    return [{name: row.get(name) for name in names} for row in rows]


def test_columns_of_a_parquet_input_keep_their_types(tmp_path: Path):
    table = pa.table(
        {
            "prompt": ["a", "b", None],
            "when": pa.array([datetime.datetime(2026, 1, 2)] * 3, pa.timestamp("us")),
            "price": pa.array([Decimal("1.50"), None, Decimal("2.25")], pa.decimal128(6, 2)),
            "raw": pa.array([b"\xff\x00", b"", None]),
            "kind": pa.array(["x", "y", "x"]).dictionary_encode(),
            "loss": [float("nan"), 1.0, None],
            "by_name": pa.array([[("k", 1)], [], None], pa.map_(pa.string(), pa.int8())),
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    run_batch_job(
        FakeLLM(), BatchJob(input=tmp_path / "in.parquet", output=tmp_path / "out.parquet")
    )
    output = pq.read_table(tmp_path / "out.parquet")
    for name in table.column_names[1:]:
        assert output[name].type == table[name].type
        assert output[name].to_pylist()[1:] == table[name].to_pylist()[1:]
    assert output["error"].to_pylist()[:2] == [None, None]
    assert "exactly one of" in output["error"].to_pylist()[2]


def test_values_that_json_does_not_know_become_the_nearest_thing(tmp_path: Path):
    table = pa.table(
        {
            "prompt": ["a"],
            "when": pa.array([datetime.date(2026, 1, 2)]),
            "raw": pa.array([b"\xff\x00"]),
            "loss": [float("nan")],
            "by_number": pa.array([[(3, 1)]], pa.map_(pa.int8(), pa.int8())),
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    run_batch_job(FakeLLM(), BatchJob(input=tmp_path / "in.parquet", output=tmp_path / "o.jsonl"))
    (row,) = read_jsonl(tmp_path / "o.jsonl")
    assert (row["when"], row["raw"], row["loss"]) == ("2026-01-02", "/wA=", None)
    assert row["by_number"] == {"3": 1}


def test_columns_without_a_common_type_become_json_text_in_parquet(tmp_path: Path):
    rows = [
        {"prompt": "a", "mixed": 1, "empty": {}, "id": 1, "none": None, "whole": 2},
        {"prompt": "b", "mixed": "x", "id": 2, "none": None, "whole": 2.5, "big": 2**70},
        {"prompt": "c", "mixed": None, "empty": {}, "odd": "\ud800"},
    ]
    run(tmp_path, rows, output="out.parquet")
    output = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["mixed"] for row in output] == ["1", '"x"', None]
    assert [row["empty"] for row in output] == ["{}", None, "{}"]
    assert [row["id"] for row in output] == [1, 2, None]
    assert [row["none"] for row in output] == [None] * 3
    assert [row["whole"] for row in output] == [2.0, 2.5, None]
    assert output[1]["big"] == str(2**70)
    assert output[2]["odd"] == '"\\ud800"'


def test_an_empty_input_gives_a_readable_parquet_file(tmp_path: Path):
    run(tmp_path, [], output="out.parquet")
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 0
    pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), tmp_path / "in.parquet")
    run_batch_job(
        FakeLLM(), BatchJob(input=tmp_path / "in.parquet", output=tmp_path / "out2.parquet")
    )
    assert pq.read_table(tmp_path / "out2.parquet").column_names == ["id", *_RESULTS]


_RESULTS = ["text", "token_ids", "finish_reason", "nfe", "tpf", "cache_label", "error"]


@pytest.mark.parametrize("start", [0, 1, 2, 3, 5, 6, 9])
def test_a_parquet_file_is_read_from_any_row(tmp_path: Path, start: int):
    from starr_engine.offline.reader import open_source

    pq.write_table(pa.table({"x": range(9)}), tmp_path / "in.parquet", row_group_size=3)
    rows = list(open_source(tmp_path / "in.parquet").rows(start))
    assert [(row.index, row.columns["x"]) for row in rows] == [(i, i) for i in range(start, 9)]


def test_rows_that_arrow_cannot_turn_into_text_are_bad_rows(tmp_path: Path):
    from starr_engine.offline.reader import open_source

    buffers = pa.array(["good", b"\xff\xfe", "fine"], pa.binary()).buffers()
    strings = pa.StringArray.from_buffers(3, buffers[1], buffers[2])
    pq.write_table(pa.table({"prompt": strings}), tmp_path / "in.parquet")
    rows = list(open_source(tmp_path / "in.parquet").rows())
    assert [row.columns.get("prompt") for row in rows] == ["good", None, "fine"]
    assert "cannot be read" in (rows[1].error or "")


def test_the_progress_bar_shows_rows_speed_and_tpf(tmp_path: Path, capfd: pytest.CaptureFixture):
    run(tmp_path, prompts(5), progress=True)
    shown = capfd.readouterr().err
    assert "5/5" in shown
    assert "tokens/s, TPF" in shown
