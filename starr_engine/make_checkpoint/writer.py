"""Write a random checkpoint: configuration, tokenizer, and weights shard by shard."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from starr_engine.errors import CapacityError, ConfigError
from starr_engine.make_checkpoint.published import PublishedModel
from starr_engine.make_checkpoint.tokenizer import write_tokenizer
from starr_engine.models.base import DiffusionModel
from starr_engine.models.loading.loader import build_model, starts_near_one

WEIGHT_SPREAD: Final = 0.02
"""Standard deviation of matrices, the usual one of untrained transformers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorPlan:
    """One tensor to write."""

    name: str
    shape: tuple[int, ...]
    num_bytes: int


def make_checkpoint(
    folder: Path,
    published: PublishedModel,
    *,
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 0,
    max_shard_bytes: int = 5 * 10**9,
    weights: bool = True,
    use_tqdm: bool = False,
) -> int:
    """Write a random checkpoint in its published format.

    Every tensor depends on ``seed`` and its own name alone. No more than one shard is in memory.

    Args:
        folder: Made here; must not exist, or be empty.
        published: Of the size wanted.
        dtype: Of all tensors.
        seed: Of the random numbers.
        max_shard_bytes: Most bytes of a shard, unless one tensor alone has more.
        weights: Whether to write them; without, ``load_format="dummy"`` makes them up.
        use_tqdm: Show a progress bar.

    Returns:
        Bytes of all tensors.

    Raises:
        ConfigError: If the folder is not empty.
        CapacityError: If the disk has too little room; says how much is needed.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} exists and is not an empty folder; choose another")
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", published.config)
    if published.generation:
        _write_json(folder / "generation_config.json", published.generation)
    write_tokenizer(folder, published.tokens)
    model = build_model(folder)
    plans = tensor_plans(model, dtype)
    total = sum(plan.num_bytes for plan in plans)
    if weights:
        _check_room(folder, total)
        _write_weights(folder, plans, dtype, seed, max_shard_bytes, use_tqdm=use_tqdm)
    return total


def tensor_plans(model: DiffusionModel, dtype: torch.dtype) -> list[TensorPlan]:
    """All tensors of a checkpoint of ``model``, in the model's order."""
    parameters = dict(model.named_parameters())
    return [
        TensorPlan(
            name=name,
            shape=tuple((part := place.of(parameters[place.parameter])).shape),
            num_bytes=part.numel() * dtype.itemsize,
        )
        for name, place in model.tensor_places().items()
    ]


def random_tensor(plan: TensorPlan, dtype: torch.dtype, seed: int) -> Tensor:
    """Norms near 1 and everything else near 0, as in a model that was just made.

    Not exactly, so that no tensor can be left out or taken for another without a change.
    """
    # The CPU's generator heeds 32 bits.
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {plan.name}".encode()))
    values = torch.randn(plan.shape, generator=generator).mul_(WEIGHT_SPREAD)
    near_one = starts_near_one(plan.name, len(plan.shape))
    return (values.add_(1.0) if near_one else values).to(dtype)


def _shards(plans: list[TensorPlan], max_bytes: int) -> Iterator[list[TensorPlan]]:
    shard: list[TensorPlan] = []
    size = 0
    for plan in plans:
        if shard and size + plan.num_bytes > max_bytes:
            yield shard
            shard, size = [], 0
        shard.append(plan)
        size += plan.num_bytes
    yield shard


def _write_weights(
    folder: Path,
    plans: list[TensorPlan],
    dtype: torch.dtype,
    seed: int,
    max_shard_bytes: int,
    *,
    use_tqdm: bool,
) -> None:
    from safetensors.torch import save_file
    from tqdm import tqdm

    shards = list(_shards(plans, max_shard_bytes))
    total = sum(plan.num_bytes for plan in plans)
    weight_map: dict[str, str] = {}
    with tqdm(total=total, unit="B", unit_scale=True, disable=not use_tqdm) as bar:
        for number, shard in enumerate(shards, start=1):
            name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            if len(shards) == 1:
                name = "model.safetensors"
            tensors: dict[str, Tensor] = {}
            for plan in shard:
                tensors[plan.name] = random_tensor(plan, dtype, seed)
                weight_map[plan.name] = name
                bar.update(plan.num_bytes)
            save_file(tensors, str(folder / name), metadata={"format": "pt"})
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        _write_json(folder / "model.safetensors.index.json", index)


def _check_room(folder: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise CapacityError(
            f"the weights take {num_bytes / 1e9:.1f} GB and the disk of {folder} has "
            f"{free / 1e9:.1f} GB left; choose another folder or size, or leave the weights out"
        )


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
