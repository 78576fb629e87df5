"""DiffusionGemma's logits at every step of real decoding equal those of transformers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import DiffusionGemmaForBlockDiffusion

from starr_engine import LLM, SamplingParams
from starr_engine.engine.engine import Engine
from starr_engine.engine.step_batch import StepBatch
from starr_engine.models.loading.loader import load_model
from tests.helpers.diffusion_gemma_twin import twin_logits, twin_of
from tests.helpers.engines import as_prompts, make_llm
from tests.helpers.made import make_sharp

CANVAS, WINDOW = 16, 12
TOLERANCE = 1e-4
LENGTHS = (1, 9, 30, 45)  # within the window, and beyond it


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("diffusion-gemma") / "model"
    make_sharp(made, "diffusion-gemma", feedback=1.0)
    return made


@pytest.fixture(scope="module")
def twin(folder: Path) -> DiffusionGemmaForBlockDiffusion:
    return twin_of(folder)


@pytest.fixture(scope="module")
def llm(folder: Path) -> LLM:
    return make_llm(folder)


def prompts_of(lengths: tuple[int, ...], seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(3, 500, length).tolist() for length in lengths]


class Compared:
    """Compares the logits of every request at every step with the twin's, as they come."""

    def __init__(self, twin: DiffusionGemmaForBlockDiffusion) -> None:
        self.twin = twin
        self.told: dict[tuple[str, int], Tensor] = {}
        self.num_rows: Counter[str] = Counter()

    def step(self, batch: StepBatch, logits: Tensor) -> None:
        bounds = batch.attention.cu_query.tolist()
        first = 0
        for number, (entry, scored) in enumerate(
            zip(batch.entries, batch.score_positions, strict=True)
        ):
            request = entry.running.request
            start = request.canvas.block_start
            rows = slice(bounds[number], bounds[number + 1])
            seen = batch.input_ids[rows][batch.positions[rows] >= start]
            key = (request.request_id, request.canvas.block_index)
            context = request.canvas.token_ids[:start].tolist()
            expected = twin_logits(self.twin, context, seen.tolist(), self.told.get(key))
            offsets = torch.from_numpy(scored.astype(np.int64)) - start
            found = logits[first : first + len(scored), :-1]
            assert float(expected.std()) > 1
            torch.testing.assert_close(found, expected[offsets], rtol=0, atol=TOLERANCE)
            temperature = entry.running.remasking.temperature(request.steps_in_block)
            told = self.told.setdefault(key, torch.zeros_like(expected))
            told[offsets] = found / temperature
            self.num_rows[request.request_id] += len(scored)
            first += len(scored)


def watch(engine: Engine, compared: Compared, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = engine.executor.forward

    def watched(batch: StepBatch) -> Tensor:
        logits = forward(batch)
        compared.step(batch, logits.clone())
        return logits

    monkeypatch.setattr(engine.executor, "forward", watched)


@pytest.mark.parametrize("cache", ["none", "block_causal", "dual"])
@pytest.mark.parametrize(
    ("remasking", "args"),
    [
        ("entropy_bound", {"entropy_bound": 8.0, "max_steps": 4}),
        ("threshold", {"threshold": 0.2}),
    ],
)
def test_every_step_of_a_ragged_batch(
    llm: LLM,
    twin: DiffusionGemmaForBlockDiffusion,
    monkeypatch: pytest.MonkeyPatch,
    cache: str,
    remasking: str,
    args: dict[str, Any],
) -> None:
    compared = Compared(twin)
    watch(llm.engine, compared, monkeypatch)
    params = SamplingParams(
        max_tokens=37, ignore_eos=True, cache=cache, remasking=remasking, remasking_args=args
    )
    outputs = llm.generate(as_prompts(prompts_of(LENGTHS)), params)
    assert all(output.error is None for output in outputs)
    assert {output.cache_label for output in outputs} == {"exact"}
    assert len(compared.num_rows) == len(LENGTHS)
    assert len(compared.told) == 3 * len(LENGTHS)


def test_the_scalars_of_context_and_canvas_are_told_apart(tmp_path: Path) -> None:
    make_sharp(tmp_path / "model", "diffusion-gemma")
    path = tmp_path / "model" / "model.safetensors"
    tensors = load_file(path)
    for name, tensor in tensors.items():
        if name.endswith("layer_scalar"):
            tensor.fill_(0.5 if "encoder" in name else 1.5)
    save_file(tensors, path)
    model = twin_of(tmp_path / "model")
    scalars = {float(layer.layer_scalar) for layer in model.model.encoder.language_model.layers}
    assert scalars == {0.5}
    compared = Compared(model)
    with pytest.MonkeyPatch.context() as patch:
        llm = make_llm(tmp_path / "model")
        watch(llm.engine, compared, patch)
        params = SamplingParams(max_tokens=20, ignore_eos=True, remasking="threshold")
        [output] = llm.generate(as_prompts(prompts_of((21,))), params)
    assert output.error is None


def test_a_checkpoint_that_transformers_has_saved_is_read_as_it_is(tmp_path: Path) -> None:
    """With its vision tower, and with the heads of its layers spelled the other way."""
    make_sharp(tmp_path / "model", "diffusion-gemma")
    twin_of(tmp_path / "model").save_pretrained(tmp_path / "saved")
    stored = load_file(tmp_path / "saved" / "model.safetensors")
    assert any("vision_tower" in name for name in stored)
    ours, theirs = (
        load_model(tmp_path / name, torch.device("cpu"), torch.float32)
        for name in ("model", "saved")
    )
    assert ours.spec.layer_shapes == theirs.spec.layer_shapes
    assert [shape.window for shape in ours.spec.shapes] == [WINDOW, WINDOW, None]
    assert len({shape.head_dim for shape in ours.spec.shapes}) == 2
    for name, weight in ours.named_parameters():
        assert torch.equal(weight, theirs.get_parameter(name))


def test_repeated_weights_must_be_equal(folder: Path, tmp_path: Path) -> None:
    model = load_model(folder, torch.device("cpu"), torch.float32)
    name = "model.encoder.language_model.layers.1.experts.gate_up_proj"
    assert model.repeated_parameters[name] == "model.decoder.layers.1.experts.gate_up"
    assert "model.encoder.language_model.layers.1.layer_scalar" not in model.repeated_parameters
