"""``info``: what has a name here, and what a model is."""

from __future__ import annotations

import json

import pytest

from starr_engine import LLM, __version__
from starr_engine.attention.select import AUTO_ORDER
from starr_engine.cli.main import main
from tests.helpers.sdar_checkpoints import write_sdar_checkpoint
from tests.helpers.word_models import write_word_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_word_model(tmp_path_factory.mktemp("model")))


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


def test_info_as_text_has_a_line_for_each_fact(model, capsys):
    assert main(["info", "--model", model]) == 0
    shown = capsys.readouterr().out
    [policies] = [line for line in shown.splitlines() if line.startswith("remasking policies: ")]
    assert " low_confidence, " in policies
    assert "\n  KV bytes per token: 768 (float32), 384 (bfloat16), 384 (float16)\n" in shown
