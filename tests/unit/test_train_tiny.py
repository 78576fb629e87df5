"""The trainer of tiny-llada: resuming changes nothing, and its first steps export and load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from starr_engine.models.loader import load_model
from tools.train_tiny.schedule import TrainConfig
from tools.train_tiny.train import Trainer

ROOT = Path(__file__).parents[2]


def small_trainer() -> Trainer:
    return Trainer(TrainConfig(micro_batches=1, micro_batch_positions=60), "cpu", False)


def test_a_run_resumed_from_its_checkpoint_ends_with_the_same_weights(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.safetensors"
    whole = small_trainer()
    for _ in range(2):
        whole.train_step()
    whole.save(checkpoint)
    resumed = small_trainer()
    resumed.load(checkpoint)
    for _ in range(2):
        assert whole.train_step() == resumed.train_step()
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name


def test_a_checkpoint_exports_to_a_folder_that_the_engine_loads(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.safetensors"
    trainer = small_trainer()
    trainer.train_step()
    trainer.save(checkpoint)
    words = ["--checkpoint", str(checkpoint), "--output", str(tmp_path / "model")]
    subprocess.run([sys.executable, "-m", "tools.train_tiny.export", *words], cwd=ROOT, check=True)
    model = load_model(tmp_path / "model", torch.device("cpu"), torch.float32)
    stored = model.get_parameter("model.transformer.wte.weight")
    trained = trainer.model.wte.weight.detach().bfloat16().float()
    assert torch.equal(stored, trained)
