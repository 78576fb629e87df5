"""The loader refuses what it does not fully understand, and reads the rest one tensor at a time."""

from __future__ import annotations

import json
import re
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from starr_engine import LLM, CapacityError
from starr_engine.engine import loading
from starr_engine.errors import ConfigError
from starr_engine.models.base import MODELS
from starr_engine.models.loading import checkpoint as checkpoint_module
from starr_engine.models.loading.loader import load_model
from tests.helpers.checkpoints import llada_config, llada_tensors, write_checkpoint

CPU = torch.device("cpu")
INDEX = "model.safetensors.index.json"
WTE = "model.transformer.wte.weight"
HEAD = "model.transformer.ff_out.weight"
NORM = "model.transformer.ln_f.weight"

Tensors = dict[str, Tensor]


def load(folder: Path, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Parameters of the loaded model, by name."""
    return dict(load_model(folder, CPU, dtype).named_parameters())


def refusal(folder: Path) -> str:
    """Message of the refusal to load ``folder``."""
    with pytest.raises(ConfigError) as caught:
        load_model(folder, CPU, torch.float32)
    return str(caught.value)


@pytest.mark.parametrize("num_shards", [1, 3])
@pytest.mark.parametrize("tied", [False, True])
def test_every_tensor_reaches_the_parameter_of_its_name(
    tmp_path: Path, tied: bool, num_shards: int
) -> None:
    config = llada_config(weight_tying=tied, include_bias=True, bias_for_layer_norm=True)
    tensors = llada_tensors(config)
    loaded = load(write_checkpoint(tmp_path, config, tensors, num_shards=num_shards))
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("wanted", [torch.float32, torch.bfloat16])
def test_stored_floats_are_converted_to_the_wanted_dtype(
    tmp_path: Path, stored: torch.dtype, wanted: torch.dtype
) -> None:
    tensors = {name: tensor.to(stored) for name, tensor in llada_tensors(llada_config()).items()}
    loaded = load(write_checkpoint(tmp_path, tensors=tensors), wanted)
    assert all(torch.equal(loaded[name], tensor.to(wanted)) for name, tensor in tensors.items())


def test_the_model_is_ready_for_inference(tmp_path: Path) -> None:
    model = load_model(write_checkpoint(tmp_path), CPU, torch.float32)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_parameters_outlive_the_files(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    loaded = load(folder)
    path = folder / "model.safetensors"
    expected = llada_tensors(llada_config())[WTE]
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(loaded[WTE], expected)


@pytest.mark.parametrize("num_shards", [1, 4])
def test_one_stored_tensor_is_in_memory_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_shards: int
) -> None:
    folder = write_checkpoint(tmp_path, num_shards=num_shards)
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = 0

    @contextmanager
    def watched(path: Path, framework: str) -> Iterator[SimpleNamespace]:
        with safe_open(path, framework=framework) as file:

            def get_tensor(name: str) -> Tensor:
                nonlocal most
                tensor: Tensor = file.get_tensor(name)
                alive.add(tensor)
                most = max(most, len(alive))
                return tensor

            yield SimpleNamespace(keys=file.keys, get_slice=file.get_slice, get_tensor=get_tensor)

    monkeypatch.setattr(checkpoint_module, "safe_open", watched)
    load(folder)
    # The one just read, and the one before it that the loop has yet to replace.
    assert most == 2


def test_missing_extra_misshapen_and_integer_tensors_are_reported_together(tmp_path: Path) -> None:
    tensors = llada_tensors(llada_config())
    del tensors["model.transformer.blocks.1.up_proj.weight"]
    tensors["model.transformer.wpe.weight"] = torch.zeros(3)
    tensors[NORM] = torch.zeros(47)
    tensors[WTE] = tensors[WTE].to(torch.int8)
    assert refusal(write_checkpoint(tmp_path, tensors=tensors)).endswith(
        "do not fit its config.json; tensors "
        "missing (1): model.transformer.blocks.1.up_proj.weight; "
        "unexpected (1): model.transformer.wpe.weight; "
        "of wrong shape (1): model.transformer.ln_f.weight is [47], expected [48]; "
        "of a dtype other than F64, F32, F16, BF16 (1): model.transformer.wte.weight is I8"
    )


def test_ten_problems_of_a_kind_are_listed_and_the_rest_counted(tmp_path: Path) -> None:
    tensors = {WTE: llada_tensors(llada_config())[WTE]}
    message = refusal(write_checkpoint(tmp_path, tensors=tensors))
    # Nine tensors in each of two blocks, the final norm and the head.
    assert "missing (20): " in message
    assert message.count("model.transformer.") == 10
    assert message.endswith(" and 10 more")


def test_swapped_axes_are_a_wrong_shape(tmp_path: Path) -> None:
    tensors = llada_tensors(llada_config())
    name = "model.transformer.blocks.0.ff_out.weight"
    tensors[name] = tensors[name].T.contiguous()
    assert f"{name} is [80, 48], expected [48, 80]" in refusal(
        write_checkpoint(tmp_path, tensors=tensors)
    )


def test_biases_that_the_config_does_not_announce_are_refused(tmp_path: Path) -> None:
    tensors = llada_tensors(llada_config(include_qkv_bias=True))
    message = refusal(write_checkpoint(tmp_path, llada_config(), tensors))
    assert "unexpected (6): model.transformer.blocks.0.k_proj.bias" in message


def test_a_tied_head_may_be_stored_if_it_equals_the_embedding(tmp_path: Path) -> None:
    config = llada_config(weight_tying=True)
    tensors = llada_tensors(config)
    folder = write_checkpoint(tmp_path, config, tensors | {HEAD: tensors[WTE].clone()})
    assert HEAD not in load(folder)


def test_a_tied_head_that_differs_from_the_embedding_is_refused(tmp_path: Path) -> None:
    config = llada_config(weight_tying=True)
    tensors = llada_tensors(config)
    head = tensors[WTE].clone()
    head[100, 47] += 1
    message = refusal(write_checkpoint(tmp_path, config, tensors | {HEAD: head}))
    assert f"ties {HEAD} to {WTE}" in message
    assert "set weight_tying (tie_word_embeddings) to false" in message


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path} is not a model folder: it has no config.json"


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "is not valid JSON"), ("[]", "must hold a JSON object, got list")],
)
def test_a_config_that_is_no_json_object_is_refused(
    tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "config.json").write_text(content)
    assert message in refusal(tmp_path)


@pytest.mark.parametrize("architectures", [["GPT2LMHeadModel"], [], None, "LLaDAModelLM"])
def test_other_architectures_are_refused_and_the_known_ones_named(
    tmp_path: Path, architectures: object
) -> None:
    folder = write_checkpoint(tmp_path, llada_config(architectures=architectures))
    message = refusal(folder)
    assert f"names the architecture {architectures!r}, which is not a diffusion" in message
    assert f"; known: {', '.join(MODELS.names())}" in message


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickled_weights_are_refused_unread(tmp_path: Path, name: str) -> None:
    folder = write_checkpoint(tmp_path)
    (folder / "model.safetensors").rename(folder / name)
    message = refusal(folder)
    assert f"holds weights only as {name}" in message
    assert "save the weights as safetensors" in message


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    (folder / "model.safetensors").unlink()
    assert "holds no weights: expected model.safetensors" in refusal(folder)


def test_missing_shards_are_named(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, num_shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    assert (
        f"lacks 1 of the 3 shards that {INDEX} names: model-00002-of-00003.safetensors"
        in refusal(folder)
    )


def move_tensor(folder: Path) -> None:
    """Store the final norm in another shard than the index says."""
    weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
    shards = {name: load_file(folder / name) for name in set(weight_map.values())}
    source = weight_map[NORM]
    target = next(name for name in shards if name != source)
    shards[target][NORM] = shards[source].pop(NORM)
    for name, tensors in shards.items():
        save_file(tensors, folder / name)


def point_outside(folder: Path) -> None:
    """Let the index name a file of another folder."""
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"][NORM] = "../elsewhere.safetensors"
    (folder / INDEX).write_text(json.dumps(index))


def empty_index(folder: Path) -> None:
    """Leave an index that names nothing."""
    (folder / INDEX).write_text(json.dumps({"weight_map": {}}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (move_tensor, f"does not hold the tensors that {INDEX} says; .*{re.escape(NORM)}"),
        (point_outside, "must name files in its own folder, got '../elsewhere.safetensors'"),
        (empty_index, "must have a weight_map from tensor names to file names"),
    ],
)
def test_an_index_that_does_not_fit_its_shards_is_refused(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    folder = write_checkpoint(tmp_path, num_shards=2)
    damage(folder)
    assert re.search(message, refusal(folder))


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_damaged_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = write_checkpoint(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert f"{path} is damaged or not a safetensors file" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("listed", "expected"), [(7, (1, 7)), ([1, 9, 7], (1, 9, 7)), (None, (1,))]
)
def test_generation_config_may_add_ending_tokens(
    tmp_path: Path, listed: object, expected: tuple[int, ...]
) -> None:
    folder = write_checkpoint(tmp_path)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": listed}))
    assert load_model(folder, CPU, torch.float32).spec.eos_token_ids == expected


@pytest.mark.parametrize("listed", [101, -1, "</s>", True])
def test_an_ending_token_outside_the_vocabulary_is_refused(tmp_path: Path, listed: object) -> None:
    folder = write_checkpoint(tmp_path)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": listed}))
    assert "eos_token_id must hold token ids in [0, 101)" in refusal(folder)


def test_dummy_weights_need_no_file_and_are_the_same_each_time(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    (folder / "model.safetensors").unlink()
    one, two = (
        load_model(folder, torch.device("cpu"), torch.bfloat16, load_format="dummy")
        for _ in range(2)
    )
    for (name, a), b in zip(one.named_parameters(), two.parameters(), strict=True):
        assert a.dtype is torch.bfloat16
        assert torch.equal(a, b)
        assert abs(float(a.float().mean()) - (1.0 if a.dim() == 1 else 0.0)) < 0.02, name
        assert 0 < float(a.float().std()) < 0.05


def test_rows_of_a_large_tensor_are_read_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_checkpoint(tmp_path, num_shards=2)
    expected = load(folder)
    monkeypatch.setattr(checkpoint_module, "_BYTES_AT_ONCE", 5000)
    names = list(expected)
    pieces = list(checkpoint_module.Checkpoint.open(folder).pieces(names))
    assert {piece.name for piece in pieces} == set(names)
    assert max(piece.values.nbytes for piece in pieces) <= 5000
    assert any(piece.start for piece in pieces)
    again = load(folder)
    assert all(torch.equal(again[name], expected[name]) for name in names)


def test_weights_that_do_not_fit_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = llada_config(n_layers=40, d_model=4096, mlp_hidden_size=8192)
    folder = write_checkpoint(tmp_path, config, {"x": torch.zeros(1)})
    monkeypatch.setattr(loading, "free_memory", lambda device: 10**9)
    with pytest.raises(
        CapacityError,
        match=r"the weights take \d+\.\d GB as float32, and cpu has 1\.0 GB free; free some, or "
        r"take dtype='bfloat16', or take quantization='int8', or take a smaller model",
    ):
        LLM(str(folder), dtype="float32")
