"""Which steps an engine replays from CUDA graphs, and why not the others."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

from starr_engine.cli.options import memory_options
from starr_engine.config import EngineConfig

if TYPE_CHECKING:
    from starr_engine.models.base import DiffusionModel

Report = Mapping[str, object]


def graph_report(args: argparse.Namespace, model: DiffusionModel | None) -> Report:
    """What is recorded on the device asked for, and the reasons of steps that run eagerly.

    Args:
        args: Flags of an engine's device.
        model: None speaks of none.

    Raises:
        ConfigError: If the device is unknown or not there.
    """
    import torch

    from starr_engine.engine import loading
    from starr_engine.engine.graphs.buckets import EAGER_REASONS, MAX_ROWS, ROWS_EACH
    from starr_engine.engine.graphs.setup import obstacles

    config = EngineConfig.from_options(**memory_options(args))
    device = loading.resolve_device(config.device)
    dtype: torch.dtype = getattr(torch, loading.resolve_dtype(config.dtype, device))
    reasons = [] if device.type == "cuda" else [f"device must be cuda, got {device.type}"]
    if model is not None:
        reasons += obstacles(model, device=device, dtype=dtype)
    if reasons:
        return {"CUDA graphs": {"recorded": f"no: {'; '.join(reasons)}"}}
    return {
        "CUDA graphs": {
            "recorded": f"steps inside blocks and commits, of sequences of up to {ROWS_EACH[-1]} "
            f"rows, up to {MAX_ROWS} rows in all",
            "run eagerly": f"a step in which {'; or '.join(EAGER_REASONS)}",
        }
    }
