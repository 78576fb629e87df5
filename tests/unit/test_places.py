"""Published tensors that share a parameter find their part of it."""

from collections.abc import Mapping

import pytest
import torch
from torch import nn

from starr_engine.layers.places import HoldsSeveral, TensorPlace, module_places


class _Stacked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Parameter(torch.arange(24.0).view(2, 4, 3))

    def published_places(self) -> Mapping[str, TensorPlace]:
        return {
            f"{index}.{name}.weight": TensorPlace(parameter="both", index=(index, part))
            for index in range(2)
            for name, part in (("gate", slice(0, 2)), ("up", slice(2, 4)))
        }


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(3)
        self.experts = _Stacked()


def test_every_parameter_has_its_places_under_published_names() -> None:
    model = _Model()
    assert isinstance(model.experts, HoldsSeveral)
    places = module_places(model)
    assert sorted(places) == [
        "experts.0.gate.weight",
        "experts.0.up.weight",
        "experts.1.gate.weight",
        "experts.1.up.weight",
        "norm.bias",
        "norm.weight",
    ]
    assert places["norm.bias"] == TensorPlace(parameter="norm.bias")
    assert places["experts.1.up.weight"].parameter == "experts.both"


@pytest.mark.parametrize(("name", "first"), [("0.gate", 0.0), ("0.up", 6.0), ("1.up", 18.0)])
def test_a_place_is_a_view_of_its_part(name: str, first: float) -> None:
    model = _Model()
    part = module_places(model)[f"experts.{name}.weight"].of(model.experts.both.data)
    assert part.shape == (2, 3)
    assert part[0, 0] == first

    assert part.untyped_storage().data_ptr() == model.experts.both.untyped_storage().data_ptr()
