"""Which attention backends serve a model here, and why not the others."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

from starr_engine.cli.options import memory_options
from starr_engine.config import EngineConfig

if TYPE_CHECKING:
    from starr_engine.attention.select import Candidate
    from starr_engine.models.base import DiffusionModel

Report = Mapping[str, object]


def attention_report(args: argparse.Namespace, model: DiffusionModel | None) -> Report:
    """What ``auto`` tries, in its order, with reasons and remarks.

    Args:
        args: Flags of an engine's device, dtype and pages.
        model: None for the shape of a common model: 32 heads of 128, 8 of them for keys.

    Raises:
        ConfigError: If a flag's value is out of range or does not suit the model.
    """
    import torch

    from starr_engine.attention.base import AttentionShape
    from starr_engine.attention.select import survey
    from starr_engine.engine import loading

    config = EngineConfig.from_options(**memory_options(args))
    device = loading.resolve_device(config.device)
    dtype: torch.dtype = getattr(torch, loading.resolve_dtype(config.dtype, device))
    spec = None if model is None else model.spec_here
    mask_block = None if spec is None else spec.mask_block
    shape = AttentionShape(
        num_heads=32 if spec is None else spec.num_heads,
        num_kv_heads=8 if spec is None else spec.num_kv_heads,
        head_dim=128 if spec is None else spec.head_dim,
        page_size=loading.resolve_page_size(config.page_size, mask_block),
        dtype=dtype,
        device=device,
    )
    dtype_name = str(dtype).removeprefix("torch.")
    heads = f"{shape.num_heads} heads of {shape.head_dim}, {shape.num_kv_heads} for keys and values"
    asked = {"asked for": f"{heads}; {device}, {dtype_name}, pages of {shape.page_size} rows"}
    found = {each.name: _line(each) for each in survey(shape)}
    return {"attention backends": asked | found}


def _line(candidate: Candidate) -> str:
    if candidate.reasons:
        return f"no: {'; '.join(candidate.reasons)}"
    return "; ".join(["yes", *candidate.remarks])
