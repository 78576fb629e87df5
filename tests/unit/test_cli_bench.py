"""``starr-engine bench`` on a random model: its last line, its files, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from starr_engine.bench.profiler import PHASES
from starr_engine.cli.main import main
from tests.helpers.word_models import write_word_model

SHORT = ["--max-tokens", "8", "--block-length", "4", "--prompt-len", "6", "--device", "cpu"]
PEAKS = ["--peak-bandwidth", "10", "--peak-compute", "0.1"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_word_model(tmp_path_factory.mktemp("model")))


def bench(model: str, capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, Any]:
    assert main(["bench", *flags, "--model", model, *SHORT]) == 0
    record: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return record


def test_latency_runs_one_request_at_a_time_and_measures_its_roofline(model, capsys):
    record = bench(model, capsys, "latency", "--num-prompts", "3", "--cache", "dual")
    result = record["result"]
    assert (result["requests"], result["mean_batch"], result["tokens"]) == (3, 1.0, 24)
    assert record["benchmark"] == "bench_latency"
    assert record["environment"]["versions"]["torch"]
    assert record["setting"]["params"]["cache"] == "dual"
    assert record["setting"]["engine"]["model"] == model
    assert set(record["profile"]["phases"]) == {*PHASES, "other"}
    roofline = record["profile"]["roofline"]
    assert roofline["peak_bytes_per_s"] > 0
    assert roofline["block_steps"]["share"] > 0


def test_forced_tokens_per_step_are_the_tokens_per_forward(model, capsys):
    flags = ("throughput", "--num-prompts", "4", "--concurrency", "2", "--no-profile")
    for tokens, nfe in ((1, 8), (2, 4), (4, 2)):
        result = bench(model, capsys, *flags, "--tokens-per-step", str(tokens))["result"]
        assert (result["tpf"], result["nfe"], result["mean_batch"]) == (tokens, 4 * nfe, 2.0)
    entropy = ("--remasking", "entropy", "--tokens-per-step", "2")
    record = bench(model, capsys, *flags, *entropy)
    assert record["setting"]["params"]["remasking"] == "entropy"
    assert record["result"]["tpf"] == 2.0


def test_equal_seeds_make_equal_work_and_files_say_what_is_printed(model, capsys, tmp_path):
    trace, output = tmp_path / "trace.json", tmp_path / "out.json"
    flags = ["throughput", "--num-prompts", "5", "--arrival-rate", "1000", "--prompt-len", "3:9"]
    files = ["--chrome-trace", str(trace), "--output", str(output)]
    rows = []
    for more in (files, ["--load-format", "dummy"], ["--seed", "1"]):
        assert main(["bench", *flags, *PEAKS, "--model", model, *SHORT[:4], *more]) == 0
        record = json.loads(capsys.readouterr().out.splitlines()[-1])
        rows.append(record["result"]["computed_rows"])
        assert record["profile"]["roofline"]["peak_flops_per_s"] == 1e11
    assert rows[0] == rows[1] != rows[2]
    steps = json.loads(output.read_text())["profile"]["steps"]
    events = json.loads(trace.read_text())["traceEvents"]
    assert sum(event["name"].endswith(" step") for event in events) == steps


def test_prompts_of_a_file_run_with_what_their_rows_ask_for(model, capsys, tmp_path):
    path = tmp_path / "rows.jsonl"
    rows: list[dict[str, Any]] = [
        {"prompt": "w1 w2"},
        {"prompt_token_ids": [7, 8, 9], "max_tokens": 4},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ("throughput", "--prompts", str(path), "--ignore-eos", "--no-profile")
    assert bench(model, capsys, *flags)["result"]["tokens"] == 12


def test_a_split_model_has_phases_and_no_roofline(model, capsys):
    record = bench(model, capsys, "latency", "--num-prompts", "1", "--tensor-parallel-size", "2")
    assert set(record["profile"]["phases"]) == {*PHASES, "other"}
    assert "roofline" not in record["profile"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["latency", "--concurrency", "2"], "are of throughput"),
        (["throughput", "--concurrency", "2", "--arrival-rate", "1"], "give one of them"),
        (["throughput", "--arrival-rate", "0"], "above 0"),
        (["throughput", "--num-prompts", "0"], "at least 1"),
        (["throughput", "--concurrency", "0"], "at least 1"),
        (["latency", "--warmup", "-1"], "--warmup must be at least 0"),
        (["latency", "--prompt-len", "many"], "takes N or MIN:MAX"),
        (["latency", "--prompt-len", "9:3"], "least first"),
        (["latency", "--no-profile", "--chrome-trace", "x"], "leave --no-profile out"),
        (["latency", "--tensor-parallel-size", "2", "--peak-compute", "1"], "of one device"),
        (["latency", "--n", "2"], "--n is 2"),
        (["latency", "--peak-bandwidth", "-1", "--peak-compute", "1"], "must be above 0"),
        (["latency", "--tokens-per-step", "2", "--remasking", "threshold"], "tokens_per_step"),
    ],
)
def test_a_flag_that_makes_no_sense_is_one_line(model, capsys, flags, message):
    assert main(["bench", *flags, "--model", model]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1


def test_a_trace_that_cannot_be_written_is_said_before_anything_runs(model, capsys, tmp_path):
    missing = Path(tmp_path) / "missing" / "trace.json"
    assert main(["bench", "latency", "--chrome-trace", str(missing), "--model", model]) == 2
    captured = capsys.readouterr()
    assert "no folder" in captured.err
    assert captured.out == ""
