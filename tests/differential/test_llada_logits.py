"""LLaDA on flat rows against a numpy twin, against transformers, and against itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from starr_engine.attention.base import ATTENTION_BACKENDS, AttentionShape
from starr_engine.models.base import DiffusionModel
from starr_engine.models.loading.loader import load_model
from starr_engine.models.loading.locate import resolve_model
from tests.helpers.attention import Lengths, fresh_attention, make_metadata
from tests.helpers.checkpoints import MASK_TOKEN_ID, llada_config, llada_tensors, write_checkpoint
from tests.helpers.devices import DEVICES
from tests.helpers.llada_reference import LLaDAReference
from tests.helpers.llama_twin import LlamaTwin
from tests.helpers.shipped import shipped_of

# Float32 sums of up to 80 products of order 1, over 2 layers; measured errors are below 5e-6.
TOLERANCE = 1.5e-5

VARIANTS: dict[str, dict[str, Any]] = {
    "untied": {},
    "tied": {"weight_tying": True},
    "grouped heads": {"n_kv_heads": 2},
    "one key/value head": {"n_kv_heads": None, "multi_query_attention": True},
    "query, key and value biases": {"include_qkv_bias": True},
    "all biases": {"include_bias": True, "bias_for_layer_norm": None},
    "tied with biases": {"include_bias": True, "weight_tying": True},
    "small rope base, large eps": {"rope_theta": 100.0, "rms_norm_eps": 0.1},
    "rows beyond the vocabulary": {"vocab_size": 90},
}

RAGGED = [1, 33, 2, 31, 31, 64, 1]
"""Odd lengths, and neighbours of equal length, which share a call in some backends."""


def some_ids(length: int, seed: int) -> list[int]:
    """Token ids, about half of them masks."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(4, 90, length)
    return [int(token) for token in np.where(rng.random(length) < 0.5, MASK_TOKEN_ID, ids)]


def batch_logits(
    model: DiffusionModel, batch: Sequence[Sequence[int]], backend: str = "sdpa"
) -> list[Tensor]:
    """Logits of every request, all computed in one flat batch."""
    lengths = [len(ids) for ids in batch]
    parameter = next(model.parameters())
    attention = fresh_attention(
        ATTENTION_BACKENDS.get(backend), attention_shape(model, parameter), lengths
    )
    input_ids = torch.tensor([token for ids in batch for token in ids], device=parameter.device)
    positions = torch.cat([torch.arange(length) for length in lengths]).to(parameter.device)
    with torch.inference_mode():
        logits = model.compute_logits(model(input_ids, positions, attention))
    return list(torch.split(logits.cpu(), lengths))


def attention_shape(model: DiffusionModel, parameter: Tensor) -> AttentionShape:
    """What a backend must know to serve ``model``."""
    return AttentionShape(
        num_heads=model.spec.num_heads,
        num_kv_heads=model.spec.num_kv_heads,
        head_dim=model.spec.head_dim,
        page_size=8,
        dtype=parameter.dtype,
        device=parameter.device,
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", ["reference", "sdpa"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_ragged_batch_gives_the_logits_of_the_numpy_twin(
    tmp_path: Path, variant: str, backend: str, device: str
) -> None:
    config = llada_config(**VARIANTS[variant])
    tensors = llada_tensors(config | {"n_kv_heads": num_kv_heads(config)}, seed=1)
    folder = write_checkpoint(tmp_path, config, tensors)
    model = load_model(folder, torch.device(device), torch.float32)
    twin = LLaDAReference.from_folder(folder, config)

    batch = [some_ids(length, seed) for seed, length in enumerate(RAGGED)]
    for ids, logits in zip(batch, batch_logits(model, batch, backend), strict=True):
        np.testing.assert_allclose(logits.numpy(), twin.logits(ids), rtol=0, atol=TOLERANCE)


def num_kv_heads(config: dict[str, Any]) -> int:
    """1 for the multi-query variant, whose ``n_kv_heads`` is null."""
    return 1 if config["multi_query_attention"] else int(config["n_kv_heads"])


@pytest.mark.parametrize("length", [1, 2, 31, 33])
@pytest.mark.parametrize("variant", ["untied", "tied", "grouped heads"])
def test_logits_equal_those_of_a_llama_without_causal_mask(
    tmp_path: Path, variant: str, length: int
) -> None:
    config = llada_config(**VARIANTS[variant])
    tensors = llada_tensors(config, seed=2)
    model = load_model(
        write_checkpoint(tmp_path, config, tensors), torch.device("cpu"), torch.float32
    )
    ids = some_ids(length, seed=length)
    torch.testing.assert_close(
        batch_logits(model, [ids])[0],
        LlamaTwin(config, tensors, torch.float32).logits(ids),
        rtol=0,
        atol=TOLERANCE,
    )


def test_bfloat16_is_at_most_twice_as_wrong_as_a_bfloat16_llama(tmp_path: Path) -> None:
    config = llada_config()
    tensors = {name: t.bfloat16().float() for name, t in llada_tensors(config, seed=3).items()}
    folder = write_checkpoint(tmp_path, config, tensors)
    model = load_model(folder, torch.device("cpu"), torch.bfloat16)
    ids = some_ids(64, seed=3)
    exact = torch.from_numpy(LLaDAReference.from_folder(folder, config).logits(ids))

    error = (batch_logits(model, [ids])[0].double() - exact).abs().max()
    llama = LlamaTwin(config, tensors, torch.bfloat16).logits(ids)
    assert error <= 2 * (llama.double() - exact).abs().max()


def test_rotary_angles_stay_float32_in_a_bfloat16_model(tmp_path: Path) -> None:
    model = load_model(write_checkpoint(tmp_path), torch.device("cpu"), torch.bfloat16)
    assert {buffer.dtype for buffer in model.buffers()} == {torch.float32}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_rows_in_another_order_give_the_same_logits_in_that_order(tmp_path: Path) -> None:
    """Positions say where a row is; its place in the batch says nothing."""
    model = load_model(write_checkpoint(tmp_path), torch.device("cpu"), torch.float32)
    attention = fresh_attention(
        ATTENTION_BACKENDS.get("sdpa"), attention_shape(model, next(model.parameters())), [17]
    )
    ids, order = torch.tensor(some_ids(17, seed=5)), torch.randperm(17)
    with torch.inference_mode():
        ordered = model(ids, torch.arange(17), attention)
        shuffled = model(ids[order], torch.arange(17)[order], attention)
    torch.testing.assert_close(shuffled, ordered[order], rtol=0, atol=TOLERANCE)
    assert (shuffled - ordered).abs().max() > 0.1


def test_positions_up_to_the_last_one_follow_the_numpy_twin(tmp_path: Path) -> None:
    config = llada_config()
    folder = write_checkpoint(tmp_path, config)
    model = load_model(folder, torch.device("cpu"), torch.float32)
    attention = fresh_attention(
        ATTENTION_BACKENDS.get("sdpa"), attention_shape(model, next(model.parameters())), [4]
    )
    ids, positions = some_ids(4, seed=6), [159, 3, 80, 0]
    with torch.inference_mode():
        hidden = model(torch.tensor(ids), torch.tensor(positions), attention)
        logits = model.compute_logits(hidden)
    expected = LLaDAReference.from_folder(folder, config).logits(ids, positions)
    np.testing.assert_allclose(logits.numpy(), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", ["reference", "sdpa"])
def test_a_block_over_cached_rows_gives_the_logits_of_the_whole_sequence(
    tmp_path: Path, backend: str, device: str
) -> None:
    """Two requests, the second step computing one block of each while the tokens stay."""
    config = llada_config(n_kv_heads=2)
    folder = write_checkpoint(tmp_path, config)
    model = load_model(folder, torch.device(device), torch.float32)
    shape = attention_shape(model, next(model.parameters()))
    batch = [some_ids(29, seed=7), some_ids(40, seed=8)]
    blocks = [(13, 29), (24, 40)]

    whole = [Lengths(query_len=len(ids), read_len=len(ids)) for ids in batch]
    metadata, num_pages = make_metadata(whole, page_size=8, device=device)
    caches = torch.full((2, 2, num_pages, 8, 2, 12), float("nan"), device=device)
    write_slots = metadata.slot_mapping

    def run(rows: list[tuple[int, int]], slots: Tensor, lengths: list[Lengths]) -> Tensor:
        step = ATTENTION_BACKENDS.get(backend)(shape).plan(
            make_metadata(lengths, page_size=8, device=device)[0]
        )

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            k_cache, v_cache = caches[layer]
            k_cache.flatten(0, 1)[slots] = key
            v_cache.flatten(0, 1)[slots] = value
            return step.attend(query, key, value, k_cache, v_cache)

        ids = [token for ids, (a, b) in zip(batch, rows, strict=True) for token in ids[a:b]]
        with torch.inference_mode():
            hidden = model(
                torch.tensor(ids, device=device),
                torch.cat([torch.arange(a, b) for a, b in rows]).to(device),
                attend,
            )
            return model.compute_logits(hidden).cpu()

    twin = LLaDAReference.from_folder(folder, config)
    expected = [twin.logits(ids) for ids in batch]
    full = run([(0, 29), (0, 40)], write_slots, whole)
    np.testing.assert_allclose(full, np.concatenate(expected), rtol=0, atol=TOLERANCE)

    block_slots = torch.cat([write_slots[13:29], write_slots[29 + 24 :]])
    partly = [Lengths(query_len=16, read_len=item.read_len) for item in whole]
    logits = run(blocks, block_slots, partly)
    wanted = np.concatenate([e[a:b] for e, (a, b) in zip(expected, blocks, strict=True)])
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    "name", shipped_of("LLaDAModelLM") or [pytest.param("", marks=pytest.mark.skip)]
)
def test_a_shipped_model_is_at_most_twice_as_wrong_as_a_float32_llama(name: str) -> None:
    """Trained attention is sharp, so that rounding shows more than with random weights."""
    folder = resolve_model(name)
    config = json.loads((folder / "config.json").read_text())
    tensors = {key: t.float() for key, t in load_file(folder / "model.safetensors").items()}
    model = load_model(folder, torch.device("cpu"), torch.float32)
    twin = LLaDAReference.from_folder(folder, config)
    llama = LlamaTwin(config, tensors, torch.float32)
    batch = [some_ids(length, seed=length) for length in (33, 100)]
    for ids, logits in zip(batch, batch_logits(model, batch), strict=True):
        exact = torch.from_numpy(twin.logits(ids))
        bound = 2 * (llama.logits(ids).double() - exact).abs().max() + 1e-6 * exact.abs().max()
        assert (logits.double() - exact).abs().max() <= bound
