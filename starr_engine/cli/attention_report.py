"""Which attention backends serve a model here, and why not the others."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from starr_engine.cli.options import memory_options
from starr_engine.config import EngineConfig

if TYPE_CHECKING:
    from starr_engine.attention.select import Candidate
    from starr_engine.models.base import DiffusionModel

Report = Mapping[str, object]

_WINDOWS: Final = (
    "the same, but where rows of a prompt or of a finished block lie beyond their window: these "
    "steps take one masked call of sdpa for each request"
)


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
    num_heads = 32 if spec is None else spec.num_heads
    kinds = [(8, 128)] if spec is None else [(s.num_kv_heads, s.head_dim) for s in spec.shapes]
    page_size = loading.resolve_page_size(config.page_size, mask_block)
    heads: list[str] = []
    lines: dict[str, list[str]] = {}
    for num_kv_heads, head_dim in dict.fromkeys(kinds):
        shape = AttentionShape(
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            page_size=page_size,
            dtype=dtype,
            device=device,
        )
        heads.append(f"{num_heads} heads of {head_dim}, {num_kv_heads} for keys and values")
        for each in survey(shape):
            lines.setdefault(each.name, []).append(_line(each))
    dtype_name = str(dtype).removeprefix("torch.")
    where = f"{device}, {dtype_name}, pages of {page_size} rows"
    found = {name: _joined(each, kinds) for name, each in lines.items()}
    report = {"asked for": f"{'; or '.join(heads)}; {where}"} | found
    if spec is not None and spec.has_windows:
        report["layers with a window"] = _WINDOWS
    return {"attention backends": report}


def _joined(lines: Sequence[str], kinds: Sequence[tuple[int, int]]) -> str:
    """One line for all kinds of layers if they agree, else one of each."""
    if len(set(lines)) == 1:
        return lines[0]
    sizes = [head_dim for _, head_dim in dict.fromkeys(kinds)]
    named = zip(sizes, lines, strict=True)
    return " | ".join(f"heads of {size}: {line}" for size, line in named)


def _line(candidate: Candidate) -> str:
    if candidate.reasons:
        return f"no: {'; '.join(candidate.reasons)}"
    return "; ".join(["yes", *candidate.remarks])
