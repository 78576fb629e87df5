"""A model split over ranks computes what it computes whole, from shards that no rank has all of."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from starr_engine.errors import ConfigError
from starr_engine.layers.ranks import Ranks
from starr_engine.layers.transformer_layer import TransformerLayer
from starr_engine.make_checkpoint.published import ARCHITECTURES
from starr_engine.models.base import DiffusionModel
from starr_engine.models.loading import checkpoint as checkpoint_module
from starr_engine.models.loading.loader import build_model, fill_model, load_model
from starr_engine.models.sharing import share_of_heads
from tests.helpers.checkpoints import llada_config, llada_tensors, write_checkpoint
from tests.helpers.made import make_sharp
from tests.helpers.rank_threads import as_ranks

CPU = torch.device("cpu")
LENGTHS = (5, 17, 1)


def load_share(folder: Path, ranks: Ranks) -> DiffusionModel:
    model = build_model(folder)
    model.split(ranks)
    return fill_model(model, folder, CPU, torch.float32)


@torch.inference_mode()
def logits_of(model: DiffusionModel) -> Tensor:
    """Logits of three requests in one flat batch, under a bidirectional mask."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.spec.vocab_size, (sum(LENGTHS),), generator=generator)
    bounds = [0, *torch.tensor(LENGTHS).cumsum(0).tolist()]

    def attention(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        del layer
        groups = query.shape[1] // key.shape[1]
        key, value = (rows.repeat_interleave(groups, dim=1) for rows in (key, value))
        scores = torch.einsum("qnd,lnd->nql", query, key) * query.shape[2] ** -0.5
        parts = []
        for start, stop in pairwise(bounds):
            odds = scores[:, start:stop, start:stop].softmax(-1)
            parts.append(torch.einsum("nql,lnd->qnd", odds, value[start:stop]))
        return torch.cat(parts)

    positions = torch.cat([torch.arange(length) for length in LENGTHS])
    logits = model.compute_logits(model(ids, positions, attention))
    if model.ranks is None:
        return logits
    return model.ranks.join_columns(logits, model.spec.vocab_size)


def assert_equal_split(folder: Path, count: int) -> None:
    whole = logits_of(load_model(folder, CPU, torch.float32))
    split = as_ranks(count, lambda ranks: logits_of(load_share(folder, ranks)))[0]
    assert split.shape == whole.shape
    error = float((split - whole).abs().max() / whole.std())
    assert error < 1e-4


CHANGES: dict[str, dict[str, Any]] = {
    # Neither experts nor tokens come out even.
    "llada-moe": {"num_experts": 7},
    "sdar": {"tie_word_embeddings": True, "attention_bias": True},
}


@pytest.mark.parametrize("architecture", sorted(set(ARCHITECTURES) - {"diffusion-gemma"}))
def test_two_ranks_give_the_logits_of_one(tmp_path: Path, architecture: str) -> None:
    make_sharp(tmp_path / "model", architecture, CHANGES.get(architecture))
    assert_equal_split(tmp_path / "model", 2)


@pytest.mark.parametrize("architecture", ["llada2", "sdar-moe"])
def test_ranks_beyond_the_key_value_heads_have_copies_of_them(
    tmp_path: Path, architecture: str
) -> None:
    make_sharp(tmp_path / "model", architecture)
    spec = build_model(tmp_path / "model").spec
    assert (spec.num_heads, spec.num_kv_heads) == (4, 2)
    assert share_of_heads(spec, 4).num_kv_heads == 1
    assert_equal_split(tmp_path / "model", 4)


@pytest.mark.parametrize("weight_tying", [False, True])
def test_biases_are_added_once(tmp_path: Path, weight_tying: bool) -> None:
    config = llada_config(include_bias=True, n_kv_heads=2, weight_tying=weight_tying)
    folder = write_checkpoint(tmp_path, config, num_shards=2)
    assert_equal_split(folder, 2)


def test_rows_that_are_summed_have_the_same_bits_on_every_rank(tmp_path: Path) -> None:
    make_sharp(tmp_path / "model", "llada-moe")

    def hidden(ranks: Ranks) -> Tensor:
        model = load_share(tmp_path / "model", ranks)
        rows = model.embed(torch.arange(40))
        with torch.inference_mode():
            for layer in model.layers:
                mixed = layer.value(layer.normed(rows))
                rows = rows + layer.attention_output(mixed)
                rows = rows + layer.feed_forward(rows)
        return rows

    one, two = as_ranks(2, hidden)
    assert torch.equal(one, two)


@pytest.mark.parametrize("architecture", ["dream", "llada2", "llada-moe"])
def test_shards_make_up_the_model(tmp_path: Path, architecture: str) -> None:
    tensors = make_sharp(tmp_path / "model", architecture)
    covered = dict.fromkeys(tensors, 0)
    for rank in range(2):
        model = load_share(tmp_path / "model", Ranks(rank=rank, count=2))
        parameters = dict(model.named_parameters())
        for name, place in model.tensor_places().items():
            held = place.of(parameters[place.parameter])
            stored = tensors[name] if place.cut is None else place.cut.of(tensors[name])
            assert torch.equal(held, stored)
            is_shared = place.parameter in model.split_parameters
            covered[name] += held.numel() if is_shared or rank == 0 else 0
    assert covered == {name: tensor.numel() for name, tensor in tensors.items()}


def test_a_rank_reads_its_slices_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_checkpoint(tmp_path, num_shards=2)
    monkeypatch.setattr(checkpoint_module, "_BYTES_AT_ONCE", 3000)
    whole = sum(weight.nbytes for weight in load_model(folder, CPU, torch.float32).parameters())
    read: list[int] = []
    pieces = checkpoint_module.Checkpoint.pieces

    def counted(*args: Any, **kwargs: Any) -> Any:
        for piece in pieces(*args, **kwargs):
            assert piece.values.nbytes <= 3000
            read.append(piece.values.nbytes)
            yield piece

    monkeypatch.setattr(checkpoint_module.Checkpoint, "pieces", counted)
    model = load_share(folder, Ranks(rank=1, count=2))
    held = sum(weight.nbytes for weight in model.parameters())
    # Norms are on every rank, and 101 tokens are one more on rank 1.
    assert sum(read) == held < 0.53 * whole


def test_a_tied_head_that_is_stored_again_is_held_to_the_share(tmp_path: Path) -> None:
    config = llada_config(weight_tying=True)
    tensors = llada_tensors(config)
    head = tensors["model.transformer.wte.weight"].clone()
    stored = {**tensors, "model.transformer.ff_out.weight": head}
    folder = write_checkpoint(tmp_path, config, stored)
    assert_equal_split(folder, 2)
    head[-1] += 1
    write_checkpoint(tmp_path, config, stored)
    with pytest.raises(ConfigError, match="stores different values"):
        load_share(folder, Ranks(rank=1, count=2))


def test_a_tensor_that_another_rank_holds_is_still_missed(tmp_path: Path) -> None:
    tensors = make_sharp(tmp_path / "model", "llada-moe")
    name = "model.layers.1.mlp.experts.7.up_proj.weight"
    del tensors[name]
    save_file(tensors, tmp_path / "model" / "model.safetensors")
    with pytest.raises(ConfigError, match=name.replace(".", r"\.")):
        load_share(tmp_path / "model", Ranks(rank=0, count=2))


@pytest.mark.parametrize(
    ("config", "count", "message"),
    [
        ({}, 3, "cannot share 4 query heads evenly; take a divisor of 4"),
        (
            {"d_model": 72, "n_heads": 12, "n_kv_heads": 3},
            2,
            "cannot share 3 key/value heads evenly; take a divisor or a multiple of 3",
        ),
    ],
)
def test_heads_that_do_not_come_out_even_are_refused(
    tmp_path: Path, config: dict[str, Any], count: int, message: str
) -> None:
    folder = write_checkpoint(tmp_path, llada_config(**config))
    with pytest.raises(ConfigError, match=f"tensor_parallel_size={count} {message}"):
        build_model(folder).split(Ranks(rank=0, count=count))


def test_layers_with_windows_of_their_own_are_refused(tmp_path: Path) -> None:
    make_sharp(tmp_path / "model", "diffusion-gemma")
    with pytest.raises(ConfigError, match="cannot be split: its layers have heads and windows"):
        build_model(tmp_path / "model").split(Ranks(rank=0, count=2))


def test_fewer_experts_than_ranks_are_refused(tmp_path: Path) -> None:
    make_sharp(tmp_path / "model", "llada-moe", {"num_experts": 3, "num_experts_per_tok": 2})
    with pytest.raises(ConfigError, match="3 experts, fewer than the 4 ranks"):
        build_model(tmp_path / "model").split(Ranks(rank=0, count=4))


def test_a_family_that_does_not_say_how_it_is_split_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_checkpoint(tmp_path)
    model = build_model(folder)
    monkeypatch.setattr(type(model.layers[0]), "split", TransformerLayer.split)
    with pytest.raises(ConfigError, match="LLaDABlock does not say how it is split"):
        model.split(Ranks(rank=0, count=2))


def test_made_up_weights_differ_only_where_the_model_is_split(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, llada_config(embedding_size=102))
    models = [build_model(folder) for _ in range(2)]
    for rank, model in enumerate(models):
        model.split(Ranks(rank=rank, count=2))
        fill_model(model, folder, CPU, torch.float32, load_format="dummy")
    one, two = (dict(model.named_parameters()) for model in models)
    for name in one:
        assert torch.equal(one[name], two[name]) == (name not in models[0].split_parameters)
