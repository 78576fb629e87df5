"""Layers through ``torch.compile``, which fuses what lies between two matrix products."""

from __future__ import annotations

import torch

from starr_engine.models.base import DiffusionModel


def compile_layers(model: DiffusionModel, backend: str) -> None:
    """Compile the feed-forward part of every layer, its norm included, when it is first used.

    It is compiled for any number of rows, so that steps of other sizes do not compile it anew.

    Args:
        model: Changed.
        backend: One of ``torch.compiler.list_backends()``, such as ``inductor``.
    """
    for layer in model.layers:
        compiled = torch.compile(layer.feed_forward, dynamic=True, backend=backend)
        layer.__dict__["feed_forward"] = compiled  # in place of the class's method
