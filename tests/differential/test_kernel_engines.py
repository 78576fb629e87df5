"""Whole engines on the packages' call paths, the packages replaced by plain PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from starr_engine import LLM, SamplingParams
from starr_engine.attention import requirements
from tests.helpers.checkpoints import llada_config, llada_tensors, write_checkpoint
from tests.helpers.engines import as_prompts, assert_all_pages_free, make_llm, random_prompts
from tests.helpers.fake_kernels import fake_package
from tests.helpers.sdar_checkpoints import sharp_sdar_checkpoint

KERNELS = ("flash_attn", "flashinfer", "torch_varlen", "xformers")

BIDIRECTIONAL: list[dict[str, Any]] = [
    {},
    {"cache": "none"},
    {"cache": "dllm"},
    {"cache": "dual", "cache_args": {"suffix_window": 8, "suffix_tail": True}, "max_tokens": 32},
    {"remasking": "wino", "remasking_args": {"tau1": 0.3, "tau2": 0.6}},
    {"cache": "delayed", "remasking": "threshold"},
    {"cache": "dual", "cache_args": {"isolate_prompt": True}},
]
BLOCK_CAUSAL: list[dict[str, Any]] = [
    {},
    {"cache": "none"},
    {"remasking": "wino", "remasking_args": {"tau1": 0.3, "tau2": 0.6}},
    {"remasking": "threshold"},
]


@pytest.fixture(scope="module")
def bidirectional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = llada_config(max_sequence_length=256, d_model=128, n_heads=2, n_kv_heads=1)
    tensors = llada_tensors(config)
    tensors["model.transformer.ln_f.weight"] = tensors["model.transformer.ln_f.weight"] * 5
    return write_checkpoint(tmp_path_factory.mktemp("llada"), config, tensors)


@pytest.fixture(scope="module")
def block_causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sharp_sdar_checkpoint(tmp_path_factory.mktemp("sdar"), block_size=8, head_dim=64)


@pytest.mark.parametrize("page_size", [16, 256])
@pytest.mark.parametrize("backend", KERNELS)
def test_a_mixed_batch_gives_the_tokens_of_sdpa(
    bidirectional: Path,
    block_causal: Path,
    backend: str,
    page_size: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = fake_package(backend, monkeypatch)
    # The fakes run where the real ones would refuse to.
    monkeypatch.setattr(requirements, "gpu_reasons", lambda *_: [])
    for folder, kinds in ((bidirectional, BIDIRECTIONAL), (block_causal, BLOCK_CAUSAL)):
        params = [
            SamplingParams(**({"max_tokens": 16, "block_length": 8, "ignore_eos": True} | kind))
            for kind in kinds
        ]
        prompts = as_prompts(random_prompts(len(params), seed=1))
        options: dict[str, Any] = {"page_size": page_size, "num_pages": 40, "canvas_cache": 0}
        plain = make_llm(folder, **options, attention_backend="sdpa").generate(prompts, params)
        llm = make_llm(folder, **options, attention_backend=backend)
        assert llm.engine.config.attention_backend == backend
        calls.clear()
        outputs = llm.generate(prompts, params)
        assert "packed" in calls or folder == block_causal
        assert ("paged" in calls) == (page_size == 256 or backend == "flashinfer")
        for output, expected in zip(outputs, plain, strict=True):
            assert output.error is None
            assert (output.token_ids, output.nfe) == (expected.token_ids, expected.nfe)
        assert_all_pages_free(llm.engine)


def test_auto_takes_a_package_that_serves(
    bidirectional: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_package("torch_varlen", monkeypatch)
    monkeypatch.setattr(requirements, "gpu_reasons", lambda *_: [])
    assert LLM(str(bidirectional), device="cpu").engine.config.attention_backend == "torch_varlen"
