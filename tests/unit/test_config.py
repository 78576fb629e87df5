"""Settings of an engine: what is refused, and what ``auto`` becomes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from starr_engine import CapacityError, ConfigError, EngineConfig, SamplingParams
from starr_engine.engine.loading import resolve_device, resolve_dtype, resolve_page_size
from tests.helpers.engines import as_prompts, make_llm, sharp_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sharp_checkpoint(tmp_path_factory.mktemp("sharp"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_num_requests": 0}, "max_num_requests must be an integer >= 1, got 0"),
        ({"max_num_requests": True}, "max_num_requests must be an integer >= 1, got True"),
        ({"kv_memory": 1e9}, r"kv_memory must be bytes .* or '1.5GB' .*, got 1000000000.0"),
        ({"tensor_parallel_size": 0}, "tensor_parallel_size must be an integer >= 1, got 0"),
        (
            {"tensor_parallel_size": 2, "quantization": "int8"},
            "quantization='int8' cannot be used with tensor_parallel_size=2: quantised matrices "
            "cannot be split; use quantization='none', or tensor_parallel_size=1",
        ),
        ({"page_size": 0}, "page_size must be an integer >= 1, got 0"),
        ({"mask_block_length": 0}, "mask_block_length must be an integer >= 1, got 0"),
        ({"num_pages": 1}, "num_pages must be at least 2: page 0 is reserved"),
        ({"canvas_cache": -1}, "canvas_cache must be an integer >= 0, got -1"),
        ({"canvas_cache": True}, "canvas_cache must be an integer >= 0, got True"),
        ({"prefix_caching": 1}, "prefix_caching must be True or False, got 1"),
        ({"num_threads": 10**6}, "num_threads must be at most 1024, got 1000000"),
        ({"dtype": "float64"}, "dtype must be auto, float32, bfloat16 or float16"),
        ({"dtype": torch.float32}, "dtype must be auto, float32, bfloat16 or float16"),
        ({"dtype": ["auto"]}, "dtype must be auto, float32, bfloat16 or float16"),
        ({"quantization": "int4"}, "quantization must be none, int8 or fp8, got 'int4'"),
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
    with pytest.raises(ConfigError, match=r"page_size .*; kv_memory .*; dtype .*; model "):
        EngineConfig(page_size=0, kv_memory="?", dtype="int8", model="")  # type: ignore[arg-type]


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
    tight = make_llm(folder, kv_memory=5 * 32 * 768 + 100).engine
    assert tight.page_pool.num_pages == 5 + 1
    assert tight.config.num_pages == 5 + 1
    assert (tight.config.page_size, tight.page_pool.page_size) == (32, 32)


def test_a_fraction_is_one_of_what_is_free_once_the_model_is_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def free(device: torch.device) -> int:
        asked.append(device)
        return 12 * 32 * 768

    monkeypatch.setattr("starr_engine.engine.loading.free_memory", free)
    for half in (0.5, "0.5", "50%"):
        assert make_llm(folder, kv_memory=half).engine.config.num_pages == 6 + 1
    assert asked == [torch.device("cpu")] * 3
    with pytest.raises(
        CapacityError, match=r"kv_memory='8%' \(23592 bytes\) holds no page of 24576"
    ):
        make_llm(folder, kv_memory="8%")
    # Neither a size nor a given number of pages needs to know what is free.
    make_llm(folder, kv_memory="1MiB")
    make_llm(folder, kv_memory=0.5, num_pages=3)
    assert len(asked) == 4


@pytest.mark.parametrize(
    ("asked", "block_length", "page_size"),
    [(None, None, 32), (None, 4, 32), (None, 12, 36), (None, 32, 32), (None, 64, 64), (7, None, 7),
     (48, 16, 48), (16, 16, 16)],
)  # fmt: skip
def test_pages_end_where_blocks_end(
    asked: int | None, block_length: int | None, page_size: int
) -> None:
    assert resolve_page_size(asked, block_length) == page_size


@pytest.mark.parametrize(("asked", "remedy"), [(40, "such as 32 or 48"), (5, "such as 16")])
def test_a_page_size_that_would_split_a_block_is_refused(asked: int, remedy: str) -> None:
    message = f"page_size={asked} does not suit .* blocks have 16 tokens.* multiple of 16, {remedy}"
    with pytest.raises(ConfigError, match=f"{message}$"):
        resolve_page_size(asked, 16)


def test_a_pool_that_cannot_be_had_is_a_capacity_error(folder: Path) -> None:
    with pytest.raises(CapacityError, match=r"kv_memory=100 \(100 bytes\) holds no page of 24576"):
        make_llm(folder, kv_memory=100)
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
