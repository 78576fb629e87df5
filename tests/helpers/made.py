"""Small random checkpoints that are sure of something, and their twins in transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from starr_engine.make_checkpoint.published import TINY, published_model
from starr_engine.make_checkpoint.writer import make_checkpoint
from starr_engine.models.loading.loader import starts_near_one

Visible = NDArray[np.bool_]


def make_sharp(
    folder: Path,
    architecture: str,
    changes: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    spread: float = 8.0,
    sharpness: float = 4.0,
    feedback: float = 0.02,
) -> dict[str, Tensor]:
    """Write the tiny checkpoint of an architecture with weights of order 1; returns its tensors.

    Args:
        folder: Made here.
        architecture: As ``make-checkpoint`` calls it.
        changes: Of its ``config.json``.
        seed: Of the weights.
        spread: Factor of all matrices and biases.
        sharpness: Factor of the last norm, the one that belongs to no layer.
        feedback: Factor, beside ``spread``, of what a self-conditioned model is told of the step
            before; with more, roundings grow from step to step until they decide tokens.
    """
    published = published_model(architecture, TINY)
    published = replace(published, config={**published.config, **(changes or {})})
    make_checkpoint(folder, published, dtype=torch.float32, seed=seed)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for name, tensor in tensors.items():
        if not starts_near_one(name, tensor.dim()):
            tensor *= spread
        elif "layers" not in name and "self_conditioning" not in name:
            tensor *= sharpness
        if name.endswith("self_conditioning.down_proj.weight"):
            tensor *= feedback
    save_file(tensors, path)
    return tensors


def hf_logits(
    model: nn.Module, tensors: Mapping[str, Tensor], visible_of: Callable[[int], Visible]
) -> Callable[[Sequence[int]], Tensor]:
    """Logits [length, vocabulary] of a transformers model under a mask of one's own.

    Args:
        model: A causal language model of transformers.
        tensors: Under its own names; the head may be missing if it is tied.
        visible_of: Length -> [length, length], whether a row sees a column.
    """
    model.set_attn_implementation("eager")  # type: ignore[operator]
    missing = model.load_state_dict(dict(tensors), strict=False)
    assert not missing.unexpected_keys
    assert set(missing.missing_keys) <= {"lm_head.weight"}
    model.tie_weights()  # type: ignore[operator]
    model.float().eval()

    def logits(token_ids: Sequence[int]) -> Tensor:
        visible = torch.from_numpy(visible_of(len(token_ids)))
        hidden = torch.zeros(visible.shape).masked_fill(~visible, -torch.inf)
        with torch.inference_mode():
            out: Tensor = model(torch.tensor([list(token_ids)]), attention_mask=hidden[None, None])
        found: Tensor = out.logits[0]  # type: ignore[attr-defined]
        return found

    return logits


def block_causal(mask_block: int) -> Callable[[int], Visible]:
    """A row sees the rows up to the end of its own block, counted from position 0."""

    def visible(length: int) -> Visible:
        block = np.arange(length) // mask_block
        return block[None, :] <= block[:, None]

    return visible


def causal_context(start: int) -> Callable[[int], Visible]:
    """Rows in front of ``start`` are causal, the others see everything."""

    def visible(length: int) -> Visible:
        rows = np.arange(length)
        return (rows[None, :] <= rows[:, None]) | (rows[:, None] >= start)

    return visible
