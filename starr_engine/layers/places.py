"""Where a published tensor goes: a parameter of its own, or a part of one that holds several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

Index = tuple[int | slice, ...]
Bounds = tuple[int, int]
"""First and end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """What a rank keeps of a published matrix or vector."""

    rows: tuple[Bounds, ...] | None = None
    """Ascending ranges, put one after the other; None keeps all."""

    columns: Bounds | None = None
    """None keeps all."""

    def of(self, tensor: Tensor) -> Tensor:
        """A copy of what is kept of ``tensor``."""
        if self.rows is not None:
            tensor = torch.cat([tensor[start:stop] for start, stop in self.rows])
        if self.columns is not None:
            tensor = tensor[:, slice(*self.columns)]
        return tensor.contiguous()


def cut_parameter(module: nn.Module, name: str, cut: Cut) -> Mapping[str, Cut]:
    """Replace a parameter, on ``meta`` or filled, by what is kept of it; returns what was cut."""
    whole = module.get_parameter(name)
    kept = nn.Parameter(cut.of(whole.data), requires_grad=whole.requires_grad)
    setattr(module, name, kept)
    return {name: cut}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorPlace:
    """The part of a parameter that one published tensor fills."""

    parameter: str
    """Dotted name of the parameter."""

    index: Index = ()
    """What of it: ``parameter[index]``; empty for all."""

    cut: Cut | None = None
    """What of the published tensor goes there; None for all."""

    def of(self, parameter: Tensor) -> Tensor:
        """View of the part, of the shape of what goes there."""
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
    """Places of all parameters below ``root``; those of ordinary modules keep their own names.

    A module that was cut says in ``cuts`` what it kept, by parameter.
    """
    places: dict[str, TensorPlace] = {}
    for path, module in root.named_modules():
        prefix = f"{path}." if path else ""
        if isinstance(module, HoldsSeveral):
            below = module.published_places()
        else:
            own = (name for name, _ in module.named_parameters(recurse=False))
            cuts: Mapping[str, Cut] = getattr(module, "cuts", {})
            below = {name: TensorPlace(parameter=name, cut=cuts.get(name)) for name in own}
        for name, place in below.items():
            places[prefix + name] = replace(place, parameter=prefix + place.parameter)
    return places
