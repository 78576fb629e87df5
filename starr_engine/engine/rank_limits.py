"""What cannot be done over several ranks, and why."""

from __future__ import annotations

import torch

from starr_engine.cache.base import CachePolicy
from starr_engine.errors import ConfigError
from starr_engine.models.base import ModelSpec
from starr_engine.models.sharing import split_problem


def check_ranks(spec: ModelSpec, device: torch.device, count: int) -> None:
    """Refuse ranks that cannot share a model, or that there is no room for.

    Raises:
        ConfigError: Says why.
    """
    if problem := split_problem(spec, count):
        raise ConfigError(problem)
    if device.type == "cpu":
        return
    if device.index is not None:
        raise ConfigError(
            f"device={str(device)!r} is one GPU, and tensor_parallel_size={count} takes one for "
            "each rank: use device='cuda', and choose them by CUDA_VISIBLE_DEVICES"
        )
    if (found := torch.cuda.device_count()) < count:
        raise ConfigError(
            f"tensor_parallel_size={count} takes one GPU for each rank, and torch sees {found}"
        )


def refusal_of_ranks(cache: CachePolicy, count: int) -> str | None:
    """Why a cache policy cannot serve a model over so many ranks; None if it can."""
    if count == 1 or not (cache.keeps_features or cache.needs_drift):
        return None
    kind = "chooses rows" if cache.keeps_features else "refreshes"
    remedy = "cache='dual'" if cache.keeps_features else "another refresh"
    return (
        f"it {kind} by how far whole values have moved, and over tensor_parallel_size={count} "
        f"ranks each has some heads of them; use {remedy}, or tensor_parallel_size=1"
    )
