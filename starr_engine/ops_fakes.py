"""Shapes and dtypes of what the compiled ops return, for ``torch.compile`` and ``opcheck``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from starr_engine.starr_types import StarrScores

_NUM_STATISTICS: Final = 4  # float32 vectors beside the candidate
_NUM_SIGNALS: Final = 4  # threshold, variance, deviance, stability


def _store_kv(
    key: Tensor, value: Tensor, k_cache: Tensor, v_cache: Tensor, slot_mapping: Tensor
) -> None:
    return None


def _gather_kv(k_cache: Tensor, v_cache: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
    shape = (slots.shape[0], *k_cache.shape[2:])
    return k_cache.new_empty(shape), v_cache.new_empty(shape)


def _store_rows(rows: Tensor, pages: Tensor, slots: Tensor) -> None:
    return None


def _gather_rows(pages: Tensor, slots: Tensor) -> Tensor:
    return pages.new_empty(slots.shape[0], pages.shape[2])


def _copy_pages(pages: Tensor, source: list[int], target: list[int]) -> None:
    return None


def _row_similarity(rows: Tensor, cache: Tensor, slots: Tensor) -> Tensor:
    return rows.new_empty(slots.shape[0], dtype=torch.float32)


def _select_lowest(values: Tensor, cu_rows: list[int], counts: list[int]) -> Tensor:
    return values.new_empty(sum(counts), dtype=torch.int64)


def _logits_statistics(
    logits: Tensor, forbidden_token: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    rows = (logits.shape[0],)
    top1, top2, entropy, log_normalizer = (
        logits.new_empty(rows, dtype=torch.float32) for _ in range(_NUM_STATISTICS)
    )
    return logits.new_empty(rows, dtype=torch.int64), top1, top2, entropy, log_normalizer


def _gumbel_argmax(
    logits: Tensor, forbidden_token: int, rows: Tensor, keys: Tensor, options: Tensor
) -> Tensor:
    return torch.empty_like(rows)


def _starr_decide(
    candidates: Tensor,
    confidence: Tensor,
    signal: Tensor | None,
    deviance: Tensor | None,
    masked: Tensor,
    num_left: Tensor,
    ring: Tensor,
    *rest: Any,
) -> tuple[Tensor, ...]:
    dtypes = (torch.bool, torch.bool, None, torch.int64, torch.int64, torch.bool)
    return (
        *(torch.empty_like(ring if d is None else candidates, dtype=d) for d in dtypes),
        *(torch.empty_like(candidates, dtype=torch.float32) for _ in range(_NUM_SIGNALS)),
    )


def _starr_step(
    logits: Tensor,
    forbidden_token: int,
    row_of: Tensor,
    present: Tensor,
    masked: Tensor,
    num_left: Tensor,
    ring: Tensor,
    *rest: Any,
) -> tuple[Tensor, ...]:
    scores = [torch.empty_like(row_of, dtype=torch.float32) for _ in StarrScores._fields[1:]]
    decision = _starr_decide(row_of, row_of, None, None, masked, num_left, ring)
    return (torch.empty_like(row_of), *scores, *decision)


_FAKES: Final[dict[str, Callable[..., Any]]] = {
    "store_kv": _store_kv,
    "gather_kv": _gather_kv,
    "store_rows": _store_rows,
    "gather_rows": _gather_rows,
    "copy_pages": _copy_pages,
    "row_similarity": _row_similarity,
    "select_lowest": _select_lowest,
    "logits_statistics": _logits_statistics,
    "gumbel_argmax": _gumbel_argmax,
    "starr_decide": _starr_decide,
    "starr_step": _starr_step,
}


def register() -> None:
    """Tell torch, once the library with the ops is loaded."""
    for name, fake in _FAKES.items():
        torch.library.register_fake(f"starr_engine::{name}", fake)
