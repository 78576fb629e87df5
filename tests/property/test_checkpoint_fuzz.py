"""Damaged and hostile checkpoints: a specific error, or a whole model; never anything between."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from starr_engine import CapacityError, ConfigError
from starr_engine.make_checkpoint.published import ARCHITECTURES, TINY, published_model
from starr_engine.make_checkpoint.writer import make_checkpoint
from starr_engine.models.base import DiffusionModel
from starr_engine.models.loading.loader import load_model

INDEX = "model.safetensors.index.json"
HOSTILE: list[Any] = [
    None, True, False, 0, -1, 1, 7, 2**31, 2**63, 10**12, 10**400, -(10**12), 0.0, 0.5, -1.0, 1e38,
    float("nan"), float("inf"), "", "4", "../../etc/passwd", [], [1], [None], {}, {"a": {"b": []}},
    ["LLaDAModelLM"], {"rope_type": "yarn"},
]  # fmt: skip


@pytest.fixture(scope="module", params=sorted(ARCHITECTURES))
def sound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in two or more shards."""
    folder: Path = tmp_path_factory.mktemp("sound") / request.param
    published = published_model(request.param, TINY)
    make_checkpoint(folder, published, dtype=torch.float32, max_shard_bytes=150_000)
    return folder


def attempt(folder: Path) -> DiffusionModel | None:
    """The model, whole; None if it was refused with a reason."""
    try:
        model = load_model(folder, torch.device("cpu"), torch.float32)
    except (ConfigError, CapacityError):
        return None
    assert not any(weight.is_meta for weight in model.parameters())
    return model


def damaged(sound: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(sound, folder)
    return folder


fuzz = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.filterwarnings("ignore:no file of")  # says the block length: a value was deleted
@fuzz
@given(data=st.data())
def test_hostile_configurations(sound: Path, tmp_path: Path, data: st.DataObject) -> None:
    folder = damaged(sound, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    for name in data.draw(st.lists(st.sampled_from(sorted(config)), min_size=1, max_size=2)):
        value = data.draw(st.sampled_from([*HOSTILE, "absent"]))
        if value == "absent":
            config.pop(name, None)
        else:
            config[name] = value
    (folder / "config.json").write_text(json.dumps(config))
    attempt(folder)


@fuzz
@given(data=st.data())
def test_hostile_files_beside_the_configuration(
    sound: Path, tmp_path: Path, data: st.DataObject
) -> None:
    folder = damaged(sound, tmp_path)
    name = data.draw(st.sampled_from(["generation_config.json", "tokenizer_config.json"]))
    fields = ["eos_token_id", "mask_token", "added_tokens_decoder", "block_length", "temperature"]
    field = data.draw(st.sampled_from(fields))
    (folder / name).write_text(json.dumps({field: data.draw(st.sampled_from(HOSTILE))}))
    attempt(folder)


@fuzz
@given(data=st.data())
def test_bytes_that_are_lost_or_changed(sound: Path, tmp_path: Path, data: st.DataObject) -> None:
    folder = damaged(sound, tmp_path)
    path = data.draw(st.sampled_from(sorted(folder.glob("*.safetensors"))))
    content = bytearray(path.read_bytes())
    header = int.from_bytes(content[:8], "little") + 8
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
        path.write_bytes(content)
        assert attempt(folder) is None
        return
    for at in data.draw(st.lists(st.integers(0, header - 1), min_size=1, max_size=4)):
        content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    attempt(folder)


def lose(tensors: dict[str, torch.Tensor], name: str) -> None:
    del tensors[name]


def add(tensors: dict[str, torch.Tensor], name: str) -> None:
    tensors[name + ".more"] = torch.zeros(2)


def narrow(tensors: dict[str, torch.Tensor], name: str) -> None:
    tensors[name] = tensors[name][:-1].clone()


def flatten(tensors: dict[str, torch.Tensor], name: str) -> None:
    tensors[name] = tensors[name].reshape(-1, 1, 1)


def whole_numbers(tensors: dict[str, torch.Tensor], name: str) -> None:
    tensors[name] = tensors[name].to(torch.int32)


@fuzz
@given(data=st.data())
def test_tensors_that_do_not_fit(sound: Path, tmp_path: Path, data: st.DataObject) -> None:
    folder = damaged(sound, tmp_path)
    weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
    name = data.draw(st.sampled_from(sorted(weight_map)))
    change: Callable[[dict[str, torch.Tensor], str], None] = data.draw(
        st.sampled_from([lose, add, narrow, flatten, whole_numbers])
    )
    path = folder / weight_map[name]
    tensors = load_file(path)
    change(tensors, name)
    save_file(tensors, path)
    if data.draw(st.booleans()):  # the index tells the truth about it
        rest = {key: file for key, file in weight_map.items() if file != path.name}
        index = {"weight_map": rest | dict.fromkeys(tensors, path.name)}
        (folder / INDEX).write_text(json.dumps(index))
    assert attempt(folder) is None


@fuzz
@given(data=st.data())
def test_an_index_that_lies(sound: Path, tmp_path: Path, data: st.DataObject) -> None:
    folder = damaged(sound, tmp_path)
    index = json.loads((folder / INDEX).read_text())
    before = copy.deepcopy(index)
    name = data.draw(st.sampled_from(sorted(index["weight_map"])))
    files = sorted(set(index["weight_map"].values()))
    lie = data.draw(st.sampled_from([
        *files, "absent.safetensors", "../damaged/" + files[0], "/etc/passwd", "", 7, None,
        "config.json", [files[0]],
    ]))  # fmt: skip
    where = data.draw(st.sampled_from(["file", "name", "map"]))
    if where == "file":
        index["weight_map"][name] = lie
    elif where == "name":
        index["weight_map"]["no." + name] = index["weight_map"].pop(name)
    else:
        index = data.draw(st.sampled_from([[], {}, {"weight_map": lie}, {"weight_map": {}}]))
    (folder / INDEX).write_text(json.dumps(index))
    assert (attempt(folder) is not None) == (index == before)
