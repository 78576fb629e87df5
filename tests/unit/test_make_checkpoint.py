"""Random checkpoints in the published formats: loaded, decoded, told apart, refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from starr_engine import LLM, CapacityError, ConfigError, SamplingParams
from starr_engine.cli.main import main
from starr_engine.make_checkpoint import writer
from starr_engine.make_checkpoint.published import (
    ARCHITECTURES,
    TINY,
    published_model,
    published_sizes,
)
from starr_engine.make_checkpoint.tokenizer import tokenizer_config
from starr_engine.make_checkpoint.writer import make_checkpoint
from starr_engine.models.base import MODELS
from starr_engine.models.loading.loader import build_model


def make(folder: Path, architecture: str = "sdar", **options: Any) -> Path:
    make_checkpoint(folder, published_model(architecture, TINY), **options)
    return folder


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    return found


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_a_tiny_checkpoint_of_every_architecture_generates_text(
    tmp_path: Path, architecture: str
) -> None:
    llm = LLM(str(make(tmp_path / "it", architecture)), dtype="float32", num_threads=1)
    params = SamplingParams(max_tokens=9, ignore_eos=True, remasking="threshold")
    text, chat = llm.generate("Hi, \u00fc!", params), llm.chat([{"role": "user", "content": "x"}])
    assert text[0].error is None
    assert len(text[0].token_ids) == 9
    assert llm.tokenizer.decode(text[0].prompt_token_ids) == "Hi, \u00fc!"
    assert chat[0].error is None


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_every_published_size_is_understood_without_its_weights(
    tmp_path: Path, architecture: str
) -> None:
    for size, published in published_sizes(architecture).items():
        folder = tmp_path / size
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(published.config))
        if published.generation:
            (folder / "generation_config.json").write_text(json.dumps(published.generation))
        settings = tokenizer_config(published.tokens)
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        spec = build_model(folder).spec
        ids = published.tokens.ids
        if published.tokens.mask is not None:
            assert ids[published.tokens.mask] == spec.mask_token_id
        assert max(ids.values()) < published.tokens.num_ids <= spec.vocab_size


def test_the_sizes_have_the_parameters_that_their_names_say(tmp_path: Path) -> None:
    sizes = {
        ("dream", "7b"): 7.62,
        ("llada", "8b"): 8.02,
        ("llada2", "2.1-mini"): 16.26,
        ("llada2", "2.1-flash"): 102.89,
        ("sdar", "1.7b"): 2.03,
        ("sdar", "4b"): 4.41,
        ("sdar", "8b"): 8.19,
    }
    for (architecture, size), billions in sizes.items():
        folder = tmp_path / size / architecture
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(published_model(architecture, size).config))
        count = sum(weight.numel() for weight in build_model(folder).parameters())
        assert count / 1e9 == pytest.approx(billions, abs=0.01)


def test_shards_hold_what_one_file_holds_and_a_seed_says_it_all(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole")
    cut = make(tmp_path / "cut", max_shard_bytes=50_000)
    other = make(tmp_path / "other", seed=1)
    assert len(list(cut.glob("model-*-of-*.safetensors"))) > 2
    one, two, three = tensors_of(whole), tensors_of(cut), tensors_of(other)
    assert one.keys() == two.keys() == three.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not any(torch.equal(one[name], three[name]) for name in one if one[name].dim() > 1)
    index = json.loads((cut / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in one.values())
    assert LLM(str(cut), dtype="float32").generate("x", SamplingParams(max_tokens=4))


def test_a_folder_in_use_an_unknown_size_and_a_full_disk_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a file").write_text("mine")
    with pytest.raises(ConfigError, match="is not an empty folder"):
        make(tmp_path)
    with pytest.raises(
        ConfigError, match=r"sdar has no size '9b'; its sizes are 1\.7b, 4b, 8b, tiny"
    ):
        published_model("sdar", "9b")
    with pytest.raises(ConfigError, match="unknown architecture 'gpt'; known: "):
        published_sizes("gpt")
    usage = writer.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(writer.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(CapacityError, match=r"has 0\.0 GB left"):
        make(tmp_path / "new")


def test_the_command_writes_a_model_that_the_others_take(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "made")
    assert main(["make-checkpoint", "--list"]) == 0
    assert "sdar: 1.7b, 4b, 8b, tiny" in capsys.readouterr().out
    assert main(["make-checkpoint", "--arch", "llada", "--out", out, "--dtype", "float32"]) == 0
    assert "llada tiny, random weights 0.00 GB in float32" in capsys.readouterr().out
    assert main(["info", "--model", out]) == 0
    assert "LLaDAModelLM" in capsys.readouterr().out
    assert main(["make-checkpoint", "--arch", "llada", "--out", out]) == 2
    assert main(["make-checkpoint", "--arch", "llada"]) == 2
    assert main(["make-checkpoint", "--arch", "llada", "--out", out + "2",
                 "--max-shard-size", "0.5"]) == 2  # fmt: skip
    bare = str(tmp_path / "bare")
    assert main(["make-checkpoint", "--arch", "sdar", "--out", bare, "--no-weights"]) == 0
    assert "no weights, which would take" in capsys.readouterr().out
    assert sorted(path.name for path in Path(bare).iterdir()) == [
        "config.json", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_info_describes_every_architecture_and_what_its_authors_do_runs(
    tmp_path: Path, architecture: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make(tmp_path / "it", architecture)
    assert main(["info", "--model", str(folder), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["model"]["architecture"] in MODELS.names()
    assert "starr" in report["recommended settings"]["to begin with"]
    labels = report["cache policies for this model"]
    exact = "none" if report["model"]["attention"].startswith("bidirectional") else "block_causal"
    assert labels[exact] == "exact"
    published = build_model(folder).published_decoding
    assert published is not None
    params = SamplingParams(max_tokens=8, ignore_eos=True).with_overrides(published.params)
    [output] = LLM(str(folder), dtype="float32", num_threads=1).generate("Hi there", params)
    assert output.error is None


def test_a_mixtures_active_parameters_are_those_that_its_name_says(tmp_path: Path) -> None:
    for architecture, size, billions in (
        ("llada2", "2.0-mini", 1.4),
        ("sdar-moe", "30b-a3b", 3.3),
    ):
        folder = tmp_path / architecture
        make_checkpoint(folder, published_model(architecture, size), weights=False)
        model = build_model(folder)
        count = sum(weight.numel() for weight in model.parameters()) - model.num_idle_parameters
        assert count / 1e9 == pytest.approx(billions, abs=0.1)
