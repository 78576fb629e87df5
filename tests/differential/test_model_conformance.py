"""Every family keeps the rules that the engine relies on, and the suite notices if one does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from starr_engine.layers.rotary import Rotation
from starr_engine.make_checkpoint.published import ARCHITECTURES
from starr_engine.models.base import MODELS
from starr_engine.models.decoder import DecoderLayer, DecoderModel
from starr_engine.models.loading.loader import build_model
from starr_engine.testing import check_model
from tests.helpers.made import make_sharp


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_every_family_keeps_the_rules(tmp_path: Path, architecture: str) -> None:
    make_sharp(tmp_path / "model", architecture)
    check_model(tmp_path / "model")


def test_every_registered_architecture_can_be_made(tmp_path: Path) -> None:
    made = set()
    for architecture in ARCHITECTURES:
        make_sharp(tmp_path / architecture, architecture)
        made.add(MODELS.get(build_model(tmp_path / architecture).spec.architecture))
    assert made == {MODELS.get(name) for name in MODELS.names()}


def fills_one_norm_twice(model: DecoderModel) -> None:
    places = dict(type(model).tensor_places(model))
    places["model.norm.weight"] = places["model.layers.0.input_layernorm.weight"]
    model.tensor_places = lambda: places  # type: ignore[method-assign]


def looks_at_its_neighbour(model: DecoderModel) -> None:
    layer = model.layers[0]
    assert isinstance(layer, DecoderLayer)
    normed = layer.normed

    def leaky(rows: Tensor) -> Tensor:
        return normed(rows + 0.5 * rows.roll(1, 0))

    layer.normed = leaky  # type: ignore[method-assign]


def counts_rows_instead_of_positions(model: DecoderModel) -> None:
    rotation = model.rotation

    def wrong(positions: Tensor, dtype: torch.dtype) -> Rotation:
        return rotation(torch.arange(len(positions)), dtype)

    model.rotation = wrong  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("mistake", "rule"),
    [
        (fills_one_norm_twice, "accounting"),
        (looks_at_its_neighbour, "rows: logits depend"),
        (counts_rows_instead_of_positions, "rows: logits depend"),
    ],
)
def test_a_family_with_a_mistake_is_told_which_rule_it_breaks(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mistake: Callable[[DecoderModel], None],
    rule: str,
) -> None:
    make_sharp(tmp_path / "model", "sdar")
    build = DecoderModel.__init__

    def build_wrong(self: DecoderModel, *args: object, **kwargs: object) -> None:
        build(self, *args, **kwargs)  # type: ignore[arg-type]
        mistake(self)

    monkeypatch.setattr(DecoderModel, "__init__", build_wrong)
    with pytest.raises(AssertionError, match=rule):
        check_model(tmp_path / "model", generates=False)
