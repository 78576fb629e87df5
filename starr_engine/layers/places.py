"""Where a published tensor goes: a parameter of its own, or a part of one that holds several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

Index = tuple[int | slice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorPlace:
    """The part of a parameter that one published tensor fills."""

    parameter: str
    """Dotted name of the parameter."""

    index: Index = ()
    """What of it: ``parameter[index]``; empty for all."""

    def of(self, parameter: Tensor) -> Tensor:
        """View of the part, of the published tensor's shape."""
        return parameter[self.index] if self.index else parameter


@runtime_checkable
class HoldsSeveral(Protocol):
    """A module whose parameters each hold several published tensors, such as stacked experts."""

    def published_places(self) -> Mapping[str, TensorPlace]:
        """Published names below this module -> their places in its own parameters.

        Together they cover every parameter exactly.
        """
        ...


def module_places(root: nn.Module) -> dict[str, TensorPlace]:
    """Places of all parameters below ``root``; those of ordinary modules keep their own names."""
    places: dict[str, TensorPlace] = {}
    for path, module in root.named_modules():
        prefix = f"{path}." if path else ""
        if isinstance(module, HoldsSeveral):
            below = module.published_places()
        else:
            own = (name for name, _ in module.named_parameters(recurse=False))
            below = {name: TensorPlace(parameter=name) for name in own}
        for name, place in below.items():
            places[prefix + name] = replace(place, parameter=prefix + place.parameter)
    return places
