"""The command line on a random model: what it prints, writes, refuses and returns."""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from starr_engine import LLM, SamplingParams, __version__
from starr_engine.attention.select import AUTO_ORDER
from starr_engine.cli.main import COMMANDS, main
from starr_engine.cli.options import add_sampling_options, parse_args_list, sampling_params
from starr_engine.cli.sampling_options import parse_bias
from starr_engine.errors import ConfigError
from tests.helpers.sdar_checkpoints import write_sdar_checkpoint
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


def test_generate_prints_the_text_that_the_library_gives(model, expected, capsys):
    assert main(["generate", "w1 w2 w3", "--model", model, *FLAGS]) == 0
    assert capsys.readouterr().out == expected[0].text + "\n"


def test_streamed_blocks_join_to_the_same_text(model, expected, capsys):
    assert main(["generate", "w1 w2 w3", "--stream", "--model", model, *FLAGS]) == 0
    assert capsys.readouterr().out == expected[0].text + "\n"


def test_generate_reads_standard_input_without_its_last_newline(
    model, expected, capsys, monkeypatch
):
    monkeypatch.setattr(sys, "stdin", io.StringIO("w1 w2 w3\n"))
    assert main(["generate", "--model", model, "--json", *FLAGS]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["text"] == expected[0].text
    assert shown["token_ids"] == list(expected[0].token_ids)
    assert (shown["nfe"], shown["num_prompt_tokens"]) == (expected[0].nfe, 3)


def test_streamed_json_is_one_object_per_block_and_the_output_last(model, expected, capsys):
    assert main(["generate", "w4", "--stream", "--json", "--model", model, *FLAGS]) == 0
    *blocks, output = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "".join(block["text"] for block in blocks) == output["text"] == expected[1].text
    assert [block["block_index"] for block in blocks] == list(range(len(blocks)))
    assert [token for block in blocks for token in block["token_ids"]] == output["token_ids"]


def test_generate_fills_a_gap_of_given_or_chosen_length(model, capsys):
    ends = ["--prefix", "w1 w2", "--suffix", "w3"]
    assert main(["generate", *ends, "--gap", "3", "--model", model, *INFILL]) == 0
    [gap] = LLM(model).generate({"prefix": "w1 w2", "suffix": "w3", "gap": 3}, INFILL_PARAMS)
    assert capsys.readouterr().out == gap.text + "\n"
    assert main(["generate", *ends, "--gap", "2:4", "--json", "--model", model, *INFILL]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["gap_lengths_tried"] == [2, 3, 4]
    assert shown["slots"] == [shown["text"]]
    assert shown["total_nfe"] > shown["nfe"]


def test_generate_fills_a_template_block_by_block(model, capsys):
    template = '["w2", 2, "w3", 3]'
    argv = ["generate", "w1", "--template", template, "--stream", "--json", "--model", model]
    assert main([*argv, *INFILL]) == 0
    *blocks, output = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "".join(block["text"] for block in blocks) == output["text"]
    assert [len(slot.split()) for slot in output["slots"]] == [2, 3]
    assert (output["num_prompt_tokens"], len(output["token_ids"])) == (2, 6)


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["--prefix", "w1", "--gap", "1:2:3"], "--gap takes a number of tokens or LOW:HIGH"),
        (["--prefix", "w1", "--gap", "few"], "--gap takes a number of tokens or LOW:HIGH"),
        (["--prefix", "w1", "--gap", "4:2"], "low <= high"),
        (["--prefix", "w1"], "needs a gap"),
        (["w1", "--prefix", "w1", "--gap", "2"], "cannot have 'prompt' too"),
        (["w1", "--template", "[1"], "--template must be a JSON list"),
        (["w1", "--template", "5"], "a template is a list"),
        (["--prefix", "w1", "--gap", "2:3", "--stream"], "range cannot be streamed"),
        (["--prefix", "w1", "--gap", "2", "--stop", "x"], "stop cannot be used with a gap"),
    ],
)
def test_a_wrong_gap_or_template_is_one_line_and_exit_code_2(model, capsys, argv, problem):
    assert main(["generate", *argv, "--model", model]) == 2
    shown = capsys.readouterr().err
    assert problem in shown
    assert shown.count("\n") == 1


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


def test_chat_answers_one_message_through_the_template(model, expected, capsys):
    assert main(["chat", "w2 w3", "--system", "w1", "--model", model, *FLAGS]) == 0
    assert capsys.readouterr().out == expected[0].text + "\n"


def test_a_conversation_goes_on_after_a_message_that_cannot_run(model, capsys, monkeypatch):
    said = iter(["w4", "<mask>", "w5", ""])
    monkeypatch.setattr("builtins.input", lambda _: next(said))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert main(["chat", "--model", model, *FLAGS]) == 0
    shown = capsys.readouterr()
    llm = LLM(model)
    messages = [{"role": "user", "content": "w4"}]
    first = llm.chat(messages, PARAMS)[0].text
    messages += [{"role": "assistant", "content": first}, {"role": "user", "content": "w5"}]
    second = llm.chat(messages, PARAMS)[0].text
    assert shown.out == f"{first}\n{second}\n"
    assert "mask token <mask>" in shown.err


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


def test_an_unknown_command_lists_those_that_exist(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["deploy"])
    assert caught.value.code == 2
    shown = capsys.readouterr().err
    assert all(command in shown for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"usage: starr-engine {command}" in capsys.readouterr().out


def test_info_names_everything_that_has_a_name(capsys):
    assert main(["info", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["versions"]["starr_engine"] == __version__
    assert {"low_confidence", "threshold", "starr"} <= set(report["remasking policies"])
    assert {"none", "dual"} <= set(report["cache policies"])
    backends = report["attention backends"]
    assert list(backends) == ["asked for", *AUTO_ORDER]
    assert backends["asked for"].startswith("32 heads of 128, 8 for keys and values; ")
    assert backends["sdpa"].startswith("yes")
    assert report["compiled"]["bookkeeping"] == "_core"


def test_info_describes_a_model(model, capsys):
    assert main(["info", "--model", model, "--json"]) == 0
    described = json.loads(capsys.readouterr().out)["model"]
    assert described["parameters"] == LLM(model).engine.num_parameters
    # keys and values * 2 layers * 48 values * 4 bytes
    assert described["KV bytes per token"]["float32"] == 2 * 2 * 48 * 4
    assert described["mask token id"] == 3
    assert described["attention"] == "bidirectional"
    assert "rows of an attention block" not in described


def test_info_describes_a_block_causal_model(tmp_path, capsys):
    folder = write_sdar_checkpoint(tmp_path)
    assert main(["info", "--model", str(folder), "--json"]) == 0
    described = json.loads(capsys.readouterr().out)["model"]
    assert described["architecture"] == "SDARForCausalLM"
    assert described["attention"] == "block_causal"
    assert described["rows of an attention block"] == 8
    assert described["heads"] == "4 of 14, 2 for keys and values"


def test_info_says_which_attention_backends_serve_a_model_and_why_not_the_others(model, capsys):
    flags = ["--device", "cpu", "--dtype", "bfloat16", "--page-size", "256"]
    assert main(["info", "--model", model, "--json", *flags]) == 0
    backends = json.loads(capsys.readouterr().out)["attention backends"]
    assert backends.pop("asked for").endswith("cpu, bfloat16, pages of 256 rows")
    assert backends["sdpa"] == "yes"
    assert backends["torch_varlen"].startswith("no: device must be cuda, got cpu")
    assert {name for name, said in backends.items() if said.startswith("yes")} == {
        "sdpa",
        "reference",
    }


def test_info_describes_a_model_whose_layers_differ(tmp_path, capsys):
    folder = str(tmp_path / "it")
    assert main(["make-checkpoint", "--arch", "diffusion-gemma", "--out", folder]) == 0
    capsys.readouterr()
    assert main(["info", "--model", folder, "--json", "--device", "cpu"]) == 0
    report = json.loads(capsys.readouterr().out)
    described = report["model"]
    assert described["heads"] == (
        "4 of 16, 2 for keys and values, a window of 12 (2); 4 of 32, 1 for keys and values (1)"
    )
    assert described["vocabulary"] == 512
    assert described["mask token id"] == "none: noise is drawn"
    assert described["KV bytes per token"]["float32"] == (2 * 2 * 2 * 16 + 2 * 32) * 4
    labels = report["cache policies for this model"]
    assert labels["none"] == labels["block_causal"] == "exact"
    assert labels["delayed"] == labels["dllm"] == "not for this model"
    backends = report["attention backends"]
    assert "4 heads of 16, 2 for keys and values; or 4 heads of 32, 1" in backends["asked for"]
    assert backends["sdpa"] == "yes"
    assert "one masked call of sdpa" in backends["layers with a window"]


def test_the_attention_backend_has_a_short_flag(model, capsys):
    asked = ["generate", "hello", "--model", model, "--attention", "flash_attn", "--device", "cpu"]
    assert main(asked) != 0
    assert "attention_backend 'flash_attn' cannot serve this model" in capsys.readouterr().err


def test_info_as_text_has_a_line_for_each_fact(model, capsys):
    assert main(["info", "--model", model]) == 0
    shown = capsys.readouterr().out
    [policies] = [line for line in shown.splitlines() if line.startswith("remasking policies: ")]
    assert " low_confidence, " in policies
    assert "\n  KV bytes per token: 768 (float32), 384 (bfloat16), 384 (float16)\n" in shown


def test_the_module_runs_as_the_command_and_imports_nothing_heavy_for_its_version():
    script = (
        "import runpy, sys\n"
        "sys.argv = ['starr_engine', '--version']\n"
        "try:\n    runpy.run_module('starr_engine', run_name='__main__')\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'transformers', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"starr-engine {__version__}\n"


def test_a_reader_that_goes_away_is_no_traceback():
    done = subprocess.run(
        f"{sys.executable} -m starr_engine info | true; exit ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", cwd=Path(__file__).parents[2],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.returncode in (0, 141)


def test_policy_arguments_are_json_scalars_or_text():
    entries = ["a=0.9", "b=3", "c=true", "d=null", "e=fast", 'f="3"', "g=x=y", "h="]
    assert parse_args_list("--x", entries) == {
        "a": 0.9, "b": 3, "c": True, "d": None, "e": "fast", "f": "3", "g": "x=y", "h": "",
    }  # fmt: skip


@pytest.mark.parametrize("entries", [["a"], ["=1"], ["a=1", "a=2"], ["a=[1]"], ["a={}"]])
def test_other_policy_arguments_are_refused(entries):
    with pytest.raises(ConfigError, match="--x"):
        parse_args_list("--x", entries)


SAMPLING_FLAGS = [
    "--temperature", "1", "--top-p", "0.9", "--top-k", "5", "--min-p", "0.1", "--n", "2",
    "--repetition-penalty", "1.2", "--presence-penalty", "0.5", "--frequency-penalty", "-0.5",
    "--logit-bias", "17=2.5", "--logit-bias", "9=-100", "--bad-word", "w5 w6", "--bad-word", "w7",
    "--allowed-token-id", "17", "--allowed-token-id", "18", "--logprobs", "1", "--min-tokens", "3",
    "--suppress-eos", "--eos-last", "--include-stop-str-in-output", "--keep-special-tokens",
    "--cache-probe-rate", "0.5",
]  # fmt: skip


def test_every_sampling_field_has_a_flag():
    parser = argparse.ArgumentParser()
    add_sampling_options(parser)
    given = sampling_params(parser.parse_args(SAMPLING_FLAGS))
    assert given == SamplingParams(
        temperature=1, top_p=0.9, top_k=5, min_p=0.1, n=2, repetition_penalty=1.2,
        presence_penalty=0.5, frequency_penalty=-0.5, logit_bias={17: 2.5, 9: -100},
        bad_words=("w5 w6", "w7"), allowed_token_ids=(17, 18), logprobs=1, min_tokens=3,
        suppress_eos=True, eos_last=True, include_stop_str_in_output=True,
        skip_special_tokens=False, cache_probe_rate=0.5,
    )  # fmt: skip
    assert sampling_params(parser.parse_args([])) == SamplingParams()


@pytest.mark.parametrize(
    ("entries", "problem"),
    [(["17"], "takes ID=VALUE, got '17'"), (["x=1"], "ID=VALUE"), (["5=1", "5=2"], "given twice")],
)
def test_a_bias_that_is_none_is_refused(entries, problem):
    with pytest.raises(ConfigError, match=problem):
        parse_bias(entries)


def test_generate_prints_every_sample_and_their_log_probabilities(model, capsys):
    flags = ["--model", model, *FLAGS, *SAMPLING_FLAGS, "--n", "3"]
    assert main(["generate", "w1 w2", *flags]) == 0
    texts = capsys.readouterr().out.splitlines()
    assert len(texts) == 3
    assert main(["generate", "w1 w2", "--json", *flags]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [sample["text"] for sample in shown["samples"]] == texts
    assert [token["token_id"] for token in shown["logprobs"]] == shown["token_ids"]
    assert shown["samples"][0]["drift"] == shown["drift"]
    assert 0 < shown["drift"]["probe_forwards"] <= shown["nfe"]


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["generate", "w1", "--stream"], "--stream shows one sample"),
        (["chat", "w1"], "a conversation goes on with one answer"),
    ],
)
def test_where_samples_have_no_place_they_are_refused(model, capsys, argv, problem):
    assert main([*argv, "--model", model, "--n", "2", "--temperature", "1"]) == 2
    assert problem in capsys.readouterr().err
