"""Settings of an engine: what is refused, and what ``auto`` becomes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from starr_engine import CapacityError, ConfigError, EngineConfig, SamplingParams
from starr_engine.engine.loading import resolve_device, resolve_dtype
from tests.helpers.engines import as_prompts, make_llm, sharp_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sharp_checkpoint(tmp_path_factory.mktemp("sharp"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_num_requests": 0}, "max_num_requests must be an integer >= 1, got 0"),
        ({"max_num_requests": True}, "max_num_requests must be an integer >= 1, got True"),
        ({"kv_memory_bytes": 1e9}, "kv_memory_bytes must be an integer >= 1, got 1000000000.0"),
        ({"page_size": None}, "page_size must be an integer >= 1, got None"),
        ({"mask_block_length": 0}, "mask_block_length must be an integer >= 1, got 0"),
        ({"num_pages": 1}, "num_pages must be at least 2: page 0 is reserved"),
        ({"num_threads": 10**6}, "num_threads must be at most 1024, got 1000000"),
        ({"dtype": "float64"}, "dtype must be auto, float32, bfloat16 or float16"),
        ({"dtype": torch.float32}, "dtype must be auto, float32, bfloat16 or float16"),
        ({"dtype": ["auto"]}, "dtype must be auto, float32, bfloat16 or float16"),
        ({"device": None}, "device must be a name such as cpu or cuda:0, got None"),
        ({"device": torch.device("cpu")}, "device must be a name such as cpu or cuda:0, got dev"),
        ({"attention_backend": None}, "attention_backend must be a name or auto, got None"),
        ({"model": ""}, "model must name a shipped model, a folder or a hub id, got ''"),
        ({"model": 5}, "model must name a shipped model, a folder or a hub id, got 5"),
        ({"max_num_request": 3}, "unknown engine option 'max_num_request'; did you mean"),
    ],
)
def test_a_setting_of_the_wrong_kind_or_range_is_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        EngineConfig.from_options(**options)


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"page_size .*; dtype .*; model "):
        EngineConfig(page_size=0, dtype="int8", model="")  # type: ignore[arg-type]


def test_a_block_length_for_a_bidirectional_model_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="mask_block_length=16 is for block-causal models"):
        make_llm(folder, mask_block_length=16)


def test_equal_settings_are_equal_hash_alike_and_are_frozen(tmp_path: Path) -> None:
    assert EngineConfig(page_size=16) == EngineConfig(page_size=16)
    # A path is as good as its text.
    text = EngineConfig(model=str(tmp_path))
    path = EngineConfig(model=tmp_path)  # type: ignore[arg-type]
    assert path == text
    assert hash(path) == hash(text)
    with pytest.raises(dataclasses.FrozenInstanceError):
        text.page_size = 3  # type: ignore[misc]


def test_auto_is_float32_on_the_cpu_and_bfloat16_on_cuda() -> None:
    assert resolve_dtype("auto", torch.device("cpu")) == "float32"
    assert resolve_dtype("auto", torch.device("cuda")) == "bfloat16"
    assert resolve_dtype("float16", torch.device("cpu")) == "float16"


@pytest.mark.parametrize("name", ["tpu", "meta", "cpu:x", "cuda:77"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        resolve_device(name)


def test_the_pool_holds_every_request_at_full_length_or_what_the_memory_allows(
    folder: Path,
) -> None:
    # 256 rows are 8 pages of 32; page 0 is reserved.
    roomy = make_llm(folder, max_num_requests=3).engine
    assert roomy.config.max_model_len == 256
    assert roomy.page_pool.num_pages == 3 * 8 + 1
    # Two layers of keys and values, 4 heads of 12 float32 numbers: 768 bytes a row.
    tight = make_llm(folder, kv_memory_bytes=5 * 32 * 768 + 100).engine
    assert tight.page_pool.num_pages == 5 + 1
    assert tight.config.num_pages == 5 + 1


def test_a_pool_that_cannot_be_had_is_a_capacity_error(folder: Path) -> None:
    with pytest.raises(CapacityError, match="kv_memory_bytes=100 holds no page of 24576 bytes"):
        make_llm(folder, kv_memory_bytes=100)
    for num_pages in (10**12, 10**18):
        with pytest.raises(CapacityError, match=f"a pool of {num_pages} pages .* lower num_pages"):
            make_llm(folder, num_pages=num_pages)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_dtype_decodes_with_both_caches(folder: Path, dtype: str) -> None:
    llm = make_llm(folder, dtype=dtype)
    params = [
        SamplingParams(max_tokens=8, block_length=4, cache=cache, temperature=temperature)
        for cache in ("none", "dual")
        for temperature in (0.0, 1.0)
    ]
    for output in llm.generate(as_prompts([[5, 6]] * 4), params):
        assert output.num_unmasked in (4, 8)
