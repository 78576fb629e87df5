"""Quantised weights on CUDA: near the unquantised ones, in the bytes that were promised."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from starr_engine import LLM, SamplingParams
from starr_engine.config import Quantization
from starr_engine.models.loading.loader import build_model, load_model
from starr_engine.models.loading.quantization import expected_weight_bytes
from tests.helpers.engines import as_prompts, random_prompts
from tests.helpers.made import make_sharp

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda")
KINDS: tuple[Quantization, ...] = ("int8", "fp8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdar") / "made"
    make_sharp(folder, "sdar")
    return folder


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Quantization:
    if request.param == "fp8" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("needs a CUDA device of capability 8.9 or newer")
    found: Quantization = request.param
    return found


@pytest.mark.parametrize("num_rows", [1, 3, 32, 200])
def test_a_layer_is_near_the_unquantised_one(
    folder: Path, kind: Quantization, num_rows: int
) -> None:
    plain, small = (
        load_model(folder, CUDA, torch.bfloat16, quantization=each) for each in ("none", kind)
    )
    rows = torch.randn(num_rows, plain.spec.hidden_size, device=CUDA, dtype=torch.bfloat16)
    with torch.inference_mode():
        exact, found = (model.layers[0].feed_forward(rows).float() for model in (plain, small))
    assert 0 < (found - exact).std() / exact.std() < 0.15


def test_an_engine_generates_with_them(folder: Path, kind: Quantization) -> None:
    llm = LLM(str(folder), device="cuda", dtype="bfloat16", quantization=kind)
    promised = expected_weight_bytes(build_model(folder), torch.bfloat16, kind)
    assert llm.engine.weight_bytes == promised
    params = SamplingParams(max_tokens=16, ignore_eos=True)
    outputs = llm.generate(as_prompts(random_prompts(3)), params)
    assert [len(output.token_ids) for output in outputs] == [16] * 3
    assert all(output.error is None for output in outputs)
