"""The trainers of the tiny models: resuming changes nothing, first steps export and load."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from starr_engine.models.loading.loader import load_model
from tools.train_tiny.kinds import KINDS
from tools.train_tiny.trainer import Trainer

ROOT = Path(__file__).parents[2]


def small_trainer(name: str) -> Trainer:
    kind = KINDS[name]
    config = replace(kind.config, micro_batches=1, micro_batch_positions=60, bfloat16=False)
    return kind.trainer(config, "cpu", False)


def export(trainer: Trainer, folder: Path) -> Path:
    checkpoint = folder / "checkpoint.safetensors"
    trainer.save(checkpoint)
    words = ["--checkpoint", str(checkpoint), "--output", str(folder / "model")]
    subprocess.run([sys.executable, "-m", "tools.train_tiny.export", *words], cwd=ROOT, check=True)
    return folder / "model"


@pytest.mark.parametrize("name", KINDS)
def test_a_run_resumed_from_its_checkpoint_ends_with_the_same_weights(
    tmp_path: Path, name: str
) -> None:
    checkpoint = tmp_path / "checkpoint.safetensors"
    whole = small_trainer(name)
    for _ in range(2):
        whole.train_step()
    whole.save(checkpoint)
    resumed = small_trainer(name)
    resumed.load(checkpoint)
    for _ in range(2):
        assert whole.train_step() == resumed.train_step()
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name


@pytest.mark.parametrize(
    ("name", "embedding"),
    [
        ("tiny-llada", "model.transformer.wte.weight"),
        ("tiny-sdar", "model.embed_tokens.weight"),
    ],
)
def test_a_checkpoint_exports_to_a_folder_that_the_engine_loads(
    tmp_path: Path, name: str, embedding: str
) -> None:
    trainer = small_trainer(name)
    trainer.train_step()
    model = load_model(export(trainer, tmp_path), torch.device("cpu"), torch.float32)
    [trained] = [m.weight for m in trainer.model.modules() if isinstance(m, torch.nn.Embedding)]
    assert torch.equal(model.get_parameter(embedding), trained.detach().bfloat16().float())


def test_an_sdar_checkpoint_exports_to_the_published_names_and_fields(tmp_path: Path) -> None:
    trainer = small_trainer("tiny-sdar")
    trainer.train_step()
    folder = export(trainer, tmp_path)
    tensors, trained = load_file(folder / "model.safetensors"), trainer.model.state_dict()
    assert tensors.keys() == trained.keys()
    assert all(torch.equal(tensors[name], trained[name].bfloat16()) for name in trained)
    fields = json.loads((folder / "config.json").read_text())
    assert fields["architectures"] == ["SDARForCausalLM"]
    assert fields["mask_token_id"] == trainer.mask_id
    assert fields["block_size"] == trainer.block_causal
