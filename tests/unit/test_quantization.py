"""Quantised weights: which matrices, their values and bytes, when they are made, refusals."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from starr_engine import LLM, CapacityError
from starr_engine.config import Quantization
from starr_engine.engine import loading
from starr_engine.errors import ConfigError
from starr_engine.make_checkpoint.published import TINY, published_model
from starr_engine.make_checkpoint.writer import make_checkpoint
from starr_engine.models.base import DiffusionModel
from starr_engine.models.loading import checkpoint as checkpoint_module
from starr_engine.models.loading import loader, quantization
from starr_engine.models.loading.loader import build_model, load_model
from starr_engine.models.loading.quantization import (
    check_quantization,
    expected_weight_bytes,
    held_weight_bytes,
    quantizable_weights,
)
from tests.helpers.flat_logits import batch_logits
from tests.helpers.made import make_sharp

CPU = torch.device("cpu")
CUDA = torch.device("cuda")
DENSE = ("a2d", "dream", "fast-dllm-v2", "llada", "nemotron-diffusion", "sdar")
BATCH = [[5, 9, 7], [11, 4, 6, 8, 13, 12, 9], [10]]


def everything(length: int) -> Any:
    return np.ones((length, length), np.bool_)


def logits(model: DiffusionModel, batch: Sequence[Sequence[int]] = BATCH) -> Tensor:
    return torch.cat(batch_logits(model, batch, everything)).float()


def widened(weight: Tensor) -> Tensor:
    """The floats that a quantised matrix stands for."""
    floats: Tensor = weight.dequantize()
    return floats


def error(found: Tensor, expected: Tensor) -> float:
    """Root mean square, in units of the expected values' own spread."""
    return float((found - expected).square().mean().sqrt() / expected.std())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdar") / "made"
    make_sharp(folder, "sdar")
    return folder


@pytest.mark.parametrize("architecture", DENSE)
def test_int8_logits_are_those_of_the_rounded_matrices(tmp_path: Path, architecture: str) -> None:
    make_sharp(tmp_path / "made", architecture)
    plain, small = (
        load_model(tmp_path / "made", CPU, torch.float32, quantization=kind)
        for kind in ("none", "int8")
    )
    chosen = quantizable_weights(plain)
    of_small = dict(small.named_parameters())
    exact = logits(plain)
    for name, weight in plain.named_parameters():
        if name not in chosen:
            assert torch.equal(weight, of_small[name]), name
            continue
        step = weight.abs().amax(1, keepdim=True) / 127
        assert ((widened(of_small[name]) - weight).abs() <= step).all(), name
        weight.data = widened(of_small[name])
    found = logits(small)
    assert error(found, logits(plain)) < 1e-4
    assert 1e-3 < error(found, exact) < 0.5
    expected = expected_weight_bytes(build_model(tmp_path / "made"), torch.float32, "int8")
    assert held_weight_bytes(small) == expected


def test_only_the_projections_of_layers_are_quantised(folder: Path) -> None:
    model = build_model(folder)
    per_layer = {name.split(".", 3)[3] for name in quantizable_weights(model)}
    parts = {f"self_attn.{name}_proj.weight" for name in "qkvo"}
    assert per_layer == parts | {f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")}
    assert len(quantizable_weights(model)) == 7 * model.spec.num_layers


def test_bytes_are_those_of_the_values_and_their_factors(folder: Path) -> None:
    model = build_model(folder)
    full = expected_weight_bytes(model, torch.bfloat16, "none")
    matrices = [model.get_parameter(name) for name in quantizable_weights(model)]
    values = sum(matrix.numel() for matrix in matrices)
    columns = sum(len(matrix) for matrix in matrices)
    assert full == 2 * sum(weight.numel() for weight in model.parameters())
    assert expected_weight_bytes(model, torch.bfloat16, "int8") == full - values + 5 * columns
    assert expected_weight_bytes(model, torch.bfloat16, "fp8") == full - values + 4 * columns


def test_int8_in_bfloat16_is_near_float32(folder: Path) -> None:
    wide, narrow = (
        load_model(folder, CPU, dtype, quantization="int8")
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert all(weight.dtype is torch.bfloat16 for weight in narrow.parameters())
    assert error(logits(narrow), logits(wide)) < 0.1


def test_a_matrix_is_quantised_before_the_next_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it comes in pieces; so there is never more than one as floats."""
    expected = load_model(folder, CPU, torch.float32, quantization="int8")
    chosen = quantizable_weights(expected)
    made: list[weakref.ref[Tensor]] = []
    most = 0
    make = loader._make_parameter

    def watching(model: Any, name: str, *args: Any) -> Any:
        nonlocal most
        parameter = make(model, name, *args)
        if name in chosen:
            made.append(weakref.ref(parameter))
            most = max(most, sum(each() is not None for each in made))
        return parameter

    monkeypatch.setattr(loader, "_make_parameter", watching)
    monkeypatch.setattr(checkpoint_module, "_BYTES_AT_ONCE", 5000)
    monkeypatch.setattr(quantization, "_FREED_AT_ONCE", 10_000)
    model = load_model(folder, CPU, torch.float32, quantization="int8")
    assert len(made) == len(chosen)
    assert most == 1
    assert torch.equal(logits(model), logits(expected))


def test_dummy_weights_are_quantised_and_the_same_each_time(folder: Path) -> None:
    plain, one, two = (
        load_model(folder, CPU, torch.float32, load_format="dummy", quantization=kind)
        for kind in ("none", "int8", "int8")
    )
    expected = expected_weight_bytes(plain, torch.float32, "int8")
    assert held_weight_bytes(one) == expected < held_weight_bytes(plain)
    assert torch.equal(logits(one), logits(two))
    assert 0 < error(logits(one), logits(plain)) < 0.1


def test_fp8_rounds_matrices_and_rows_one_by_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch multiplies FP8 on the CPU as well, slowly; only the checks are in the way."""
    from torchao.quantization import quant_api

    monkeypatch.setattr(quantization, "_problem", lambda *args: None)
    monkeypatch.setattr(quant_api, "_check_hardware_support", lambda granularity: None)
    plain, small = (
        load_model(folder, CPU, torch.bfloat16, quantization=kind) for kind in ("none", "fp8")
    )
    assert held_weight_bytes(small) == expected_weight_bytes(plain, torch.bfloat16, "fp8")
    together = logits(small)
    assert 0.01 < error(together, logits(plain)) < 0.5
    alone = torch.cat([logits(small, [ids]) for ids in BATCH])
    assert error(alone, together) < 0.02


def refusal(
    folder: Path, kind: Quantization, device: torch.device, dtype: torch.dtype = torch.bfloat16
) -> str:
    with pytest.raises(ConfigError) as caught:
        check_quantization(build_model(folder), kind, device, dtype)
    return str(caught.value)


@pytest.mark.parametrize("architecture", ["llada-moe", "sdar-moe", "llada2"])
def test_experts_are_refused(tmp_path: Path, architecture: str) -> None:
    make_checkpoint(tmp_path / "made", published_model(architecture, TINY), weights=False)
    with pytest.raises(ConfigError, match=r"'int8' is not supported for models with experts, .*"):
        LLM(str(tmp_path / "made"), quantization="int8", load_format="dummy")


def test_float16_is_refused_because_sums_of_integers_overflow(folder: Path) -> None:
    assert "overflows when rows are multiplied by integers" in refusal(
        folder, "int8", CPU, torch.float16
    )


def test_fp8_needs_a_device_a_dtype_and_sizes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refusal(folder, "fp8", CPU) == (
        "quantization='fp8' needs a CUDA device, and device is cpu; use quantization='int8'"
    )
    capability = (8, 6)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert (
        "needs a CUDA device of capability 8.9 or newer, such as L4 or H100, and cuda has 8.6"
        in (refusal(folder, "fp8", CUDA))
    )
    capability = (9, 0)
    assert "needs dtype='bfloat16', got 'float32'" in refusal(folder, "fp8", CUDA, torch.float32)
    make_sharp(tmp_path / "odd", "sdar", {"intermediate_size": 40})
    assert "multiples of 16; not so: model.layers.0.mlp.down_proj.weight [" in (
        refusal(tmp_path / "odd", "fp8", CUDA)
    )
    check_quantization(build_model(folder), "fp8", CUDA, torch.bfloat16)


def test_a_missing_package_is_named_with_the_way_to_get_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)
    assert "pip install 'starr-engine[quant]'" in refusal(folder, "int8", CPU)
    check_quantization(build_model(folder), "none", CPU, torch.float32)


def test_weights_that_fit_only_quantised_are_counted_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model(folder)

    def needed(kind: Quantization) -> int:
        return expected_weight_bytes(model, torch.float32, kind)

    monkeypatch.setattr(loading, "_ALWAYS_FITS", 0)
    monkeypatch.setattr(loading, "free_memory", lambda device: needed("int8"))
    with pytest.raises(CapacityError, match=r"or take quantization='int8'"):
        loading.check_weights_fit(model, CPU, "float32")
    loading.check_weights_fit(model, CPU, "float32", "int8")
    monkeypatch.setattr(loading, "free_memory", lambda device: needed("int8") - 1)
    with pytest.raises(CapacityError, match=r"GB as int8 and float32, and cpu has"):
        loading.check_weights_fit(model, CPU, "float32", "int8")


def test_a_tensor_that_does_not_fit_is_found_before_anything_is_quantised(
    folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "config.json").write_text((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("model.norm.weight")
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(ConfigError, match=r"missing \(1\): model.norm.weight"):
        load_model(copy, CPU, torch.float32, quantization="int8")
