"""``batch`` on a random model: what it writes, row by row, and what it refuses."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from starr_engine import LLM, SamplingParams
from starr_engine.cli.main import main
from tests.helpers.word_models import write_word_model

FLAGS = ["--max-tokens", "16", "--block-length", "8", "--remasking", "low_confidence"]
INFILL = ["--block-length", "4", "--remasking", "low_confidence"]
INFILL_PARAMS = SamplingParams(block_length=4, remasking="low_confidence")
PARAMS = SamplingParams(max_tokens=16, block_length=8, remasking="low_confidence")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_word_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def expected(model: str) -> list:
    return LLM(model).generate(["w1 w2 w3", "w4"], PARAMS)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_batch_fills_gaps_and_templates_beside_ordinary_rows(model, tmp_path, kind):
    rows = [
        {"id": "a", "prefix": "w1 w2", "suffix": "w3", "gap": "3", "own": 1},
        {"id": "b", "prompt": "w1", "template": '["w2", 2, "w3", 1]', "own": 2},
        {"id": "c", "prompt": "w1", "own": 3},
        {"id": "d", "prefix": "w1 w2", "suffix": "w3 w4", "gap": "[1, 4]", "own": 4},
        {"id": "e", "prefix": "w1", "gap": "0", "own": 5},
        {"id": "f", "prefix": "w1", "gap": "[1, 400]", "own": 6},
    ]
    source, output = tmp_path / f"in.{kind}", tmp_path / f"out.{kind}"
    if kind == "jsonl":
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows, schema=_columns(rows)), source)
    argv = ["batch", "--model", model, "--input", str(source), "--output", str(output)]
    assert main([*argv, "--batch-size", "2", "--quiet", *INFILL]) == 0
    if kind == "jsonl":
        got = [json.loads(line) for line in output.read_text().splitlines()]
        assert "slots" not in got[2]
    else:
        got = pq.read_table(output).to_pylist()
        assert got[2]["slots"] is None
    assert [(row["id"], row["own"]) for row in got] == [(row["id"], row["own"]) for row in rows]
    prompts = [
        {"prefix": "w1 w2", "suffix": "w3", "gap": 3},
        {"prompt": "w1", "template": ["w2", 2, "w3", 1]},
        {"prefix": "w1 w2", "suffix": "w3 w4", "gap": (1, 4)},
    ]
    expected = LLM(model).generate(prompts, INFILL_PARAMS)
    for row, want in zip((got[0], got[1], got[3]), expected, strict=True):
        assert (row["text"], row["slots"]) == (want.text, list(want.slots))
        assert (row["nfe"], row["error"]) == (want.nfe, None)
    assert "gap must be a number of tokens" in got[4]["error"]
    assert "the model allows 160" in got[5]["error"]


def _columns(rows: list[dict]) -> pa.Schema:
    """Text columns but for the row's own number; rows lack some, which are null in Parquet."""
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.schema([(name, pa.int64() if name == "own" else pa.string()) for name in names])


def batch_rows() -> list[dict]:
    return [
        {"id": 0, "prompt": "w1 w2 w3", "gold": "x"},
        {"id": 1, "messages": [{"role": "user", "content": "w4"}]},
        {"id": 2, "prompt_token_ids": [4 + 4]},  # w4
        {"id": 3, "prompt": "w1 <mask>"},
        {"id": 4, "prompt": "w1", "remasking": "treshold"},
        {"id": 5, "prompt": "w1", "remasking_args": {"tau": 1}},
        {"id": 6, "prompt_token_ids": [3]},
        {"id": 7, "prompt_token_ids": [101]},
        {"id": 8, "prompt": "w1 " * 150},
        {"id": 9, "prompt": "w1 w2 w3", "cache": "none", "remasking": "threshold"},
    ]


def test_batch_gives_each_row_what_the_library_gives_or_its_own_error(
    model, expected, capsys, tmp_path
):
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in batch_rows()))
    code = main(["batch", "--model", model, "--input", str(source), "--output", str(output),
                 "--batch-size", "3", *FLAGS])  # fmt: skip
    assert code == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["id"] for row in rows] == list(range(10))
    assert (rows[0]["text"], rows[0]["gold"]) == (expected[0].text, "x")
    assert rows[0]["token_ids"] == list(expected[0].token_ids)
    assert (rows[0]["nfe"], rows[0]["tpf"]) == (expected[0].nfe, expected[0].tpf)
    assert rows[0]["cache_label"].startswith("approximate")
    assert rows[1]["text"] == rows[2]["text"] == expected[1].text
    for row, part in zip(rows[3:9], ("mask token <mask>", "did you mean 'threshold'", "'tau'",
                                     "mask token", "outside the vocabulary", "model allows 160"),
                         strict=True):  # fmt: skip
        assert part in row["error"]
        assert row["text"] is row["nfe"] is None
    assert (rows[9]["cache_label"], rows[9]["error"]) == ("exact", None)
    assert "10 rows (6 with an error)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["--max-tokens", "-3"], "max_tokens must be a positive integer"),
        (["--remasking", "treshold"], "did you mean 'threshold'"),
        (["--remasking-arg", "tau=1"], "no argument 'tau'"),
        (["--remasking-arg", "threshold"], "--remasking-arg takes NAME=VALUE, got 'threshold'"),
        (["--cache", "duel"], "unknown cache policy 'duel'; did you mean 'dual'"),
        (["--model", "./nowhere"], "unknown model './nowhere'"),
        (["--batch-size", "0"], "max_num_requests must be an integer >= 1"),
        (["--device", "abacus"], "unknown device 'abacus'"),
        (["--input", "no.jsonl"], "the input no.jsonl does not exist"),
    ],
)
def test_a_wrong_flag_is_one_line_and_exit_code_2(model, capsys, tmp_path, argv, problem):
    source = tmp_path / "in.jsonl"
    source.write_text('{"prompt": "w1"}\n')
    given = ["batch", "--model", model, "--input", str(source),
             "--output", str(tmp_path / "out.jsonl"), *argv]  # fmt: skip
    assert main(given) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("starr-engine: ")
    assert problem in shown
    assert shown.count("\n") == 1
    assert not (tmp_path / "out.jsonl").exists()
