"""Whether ranks can share a model, and which heads each of them has."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starr_engine.models.base import ModelSpec


def split_problem(spec: ModelSpec, count: int) -> str | None:
    """Why a model cannot be split over ``count`` ranks, or None.

    Every rank has as many query heads as any other, with all the key/value heads that these read;
    of a key/value head that several ranks read, each has a copy.
    """
    if spec.layer_shapes or spec.self_conditioning:
        return (
            f"{spec.architecture} cannot be split: its layers have heads and windows of their own, "
            "and its rows are told the logits of the step before; use tensor_parallel_size=1"
        )
    shared = f"tensor_parallel_size={count} cannot share"
    if spec.num_heads % count:
        return f"{shared} {spec.num_heads} query heads evenly; take a divisor of {spec.num_heads}"
    if spec.num_kv_heads % count and count % spec.num_kv_heads:
        return (
            f"{shared} {spec.num_kv_heads} key/value heads evenly; take a divisor or a multiple of "
            f"{spec.num_kv_heads}"
        )
    return None


def share_of_heads(spec: ModelSpec, count: int) -> ModelSpec:
    """The same model with the heads that one of ``count`` ranks has."""
    return replace(
        spec,
        num_heads=spec.num_heads // count,
        num_kv_heads=max(1, spec.num_kv_heads // count),
    )
