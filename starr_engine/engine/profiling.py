"""What the largest step takes of a GPU's memory beside weights and pages: measured before these.

Letters as in ``attention/base.py``; M rows with logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from starr_engine.attention.base import AttentionBackend, AttentionMetadata
from starr_engine.attention.sequences import upload
from starr_engine.config import EngineConfig
from starr_engine.decoding.scores import score_rows
from starr_engine.engine.ahead import model_goes_ahead
from starr_engine.engine.graphs.buckets import MAX_COPIED_ROWS, MAX_ROWS
from starr_engine.errors import CapacityError
from starr_engine.models.base import DiffusionModel, ModelSpec

_BLOCK_ROWS: Final = 32
"""Rows that a request of a model without blocks of its own has scored, by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstStep:
    """The largest step that an engine may take."""

    request_lens: tuple[int, ...]
    """Rows of each request, all computed and none kept, which needs most of a step's memory."""

    num_scored: int
    """M."""

    @property
    def num_rows(self) -> int:
        """T."""
        return sum(self.request_lens)


def worst_step(config: EngineConfig, spec: ModelSpec) -> WorstStep:
    """As many rows as requests can have together, within the budget of a step."""
    lens = _request_lens(config, spec, config.max_num_batched_tokens)
    block = usual_block_rows(spec)
    scored = min(config.max_num_requests * block, sum(lens))
    return WorstStep(request_lens=lens, num_scored=scored)


def usual_block_rows(spec: ModelSpec) -> int:
    """Rows of a block that a request has by default."""
    return spec.sub_block_length or spec.block_length or _BLOCK_ROWS


def graph_step(config: EngineConfig, spec: ModelSpec) -> WorstStep:
    """As many rows as the largest grid of a recording has; the head is not recorded."""
    most = min(MAX_ROWS, config.max_num_batched_tokens)
    return WorstStep(request_lens=_request_lens(config, spec, most), num_scored=0)


def _request_lens(config: EngineConfig, spec: ModelSpec, most: int) -> tuple[int, ...]:
    """The longest requests that make at most so many rows, and what is left."""
    longest = min(config.max_model_len or spec.max_model_len, most)
    rows = min(most, config.max_num_requests * longest)
    rest = rows % longest
    return (longest,) * (rows // longest) + ((rest,) if rest else ())


def graph_reserve(
    config: EngineConfig, spec: ModelSpec, dtype: torch.dtype, *, step_bytes: int, copies: bool
) -> int:
    """Bytes that recordings keep, which is memory of their own.

    Args:
        config: Of the engine.
        spec: Of the model.
        dtype: Of its rows.
        step_bytes: What a step of the largest grid takes.
        copies: Whether attention copies whole page tables; see ``RecordableBackend``.
    """
    if config.cuda_graphs == "off":
        return 0
    widest = max(2 * shape.num_kv_heads * shape.head_dim for shape in spec.shapes)
    copied = MAX_COPIED_ROWS * widest * dtype.itemsize if copies else 0
    return step_bytes + copied + MAX_ROWS * spec.hidden_size * dtype.itemsize


def held_bytes(config: EngineConfig, spec: ModelSpec, dtype: torch.dtype) -> int:
    """Bytes of the logits of one step that are kept while the step behind it runs."""
    if config.launch_ahead == "off" or not model_goes_ahead(spec):
        return 0
    return worst_step(config, spec).num_scored * spec.vocab_size * dtype.itemsize


def left_for_pages(free: int, *, step_bytes: int, graph_bytes: int) -> int:
    """Bytes that pages may take of those that are free beside the weights.

    Raises:
        CapacityError: If a step alone takes them all.
    """
    left = free - step_bytes - graph_bytes
    if left <= 0:
        raise CapacityError(
            f"{free / 1e9:.2f} GB are free beside the weights, and the largest step takes "
            f"{step_bytes / 1e9:.2f} GB and CUDA graphs {graph_bytes / 1e9:.2f} GB; lower "
            "max_num_batched_tokens or max_num_requests, or use cuda_graphs='off' or "
            "launch_ahead='off'"
        )
    return left


@torch.inference_mode()
def run_step(
    model: DiffusionModel, backends: Sequence[AttentionBackend], step: WorstStep
) -> Tensor | None:
    """Compute a step of made-up rows, and its scores if it has any.

    Returns:
        Logits [M, vocab_size] where there are scored rows.
    """
    device = next(model.parameters()).device
    metadata = _fresh_metadata(step.request_lens, device)
    plans = {id(backend): backend.plan(metadata) for backend in backends}
    positions = np.concatenate([np.arange(length) for length in step.request_lens])
    token = next(id for id in (0, 1) if id != model.spec.mask_token_id)

    def attention(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return plans[id(backends[layer])].attend(query, key, value, key[:0], value[:0])

    input_ids = torch.full((step.num_rows,), token, dtype=torch.int64, device=device)
    hidden = model(input_ids, upload(positions, device), attention)
    if not step.num_scored:
        return None
    logits: Tensor = model.compute_logits(hidden[: step.num_scored])
    # A policy may read the logits, in float32.
    held = logits.float(), score_rows(logits, input_ids[: len(logits)], token, ())
    del held
    return logits


def measured_bytes(device: torch.device, run: Callable[[], object]) -> int:
    """Bytes of a GPU that ``run`` takes beyond those taken now, at its peak.

    Raises:
        CapacityError: If it does not fit.
    """
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    try:
        run()
        torch.cuda.synchronize(device)
        peak = torch.cuda.max_memory_allocated(device)
    except torch.OutOfMemoryError as error:
        raise CapacityError(
            f"the largest step does not fit into the memory of {device} beside the weights; lower "
            "max_num_batched_tokens or max_num_requests"
        ) from error
    finally:
        torch.cuda.empty_cache()
    return peak - before


def bytes_for_pages(
    free: Callable[[], int],
    model: DiffusionModel,
    backends: Sequence[AttentionBackend],
    config: EngineConfig,
    dtype: torch.dtype,
    *,
    copies: bool,
) -> int:
    """Bytes of a GPU that pages may take, from steps that are taken for it.

    Args:
        free: Gives the free bytes; asked after the steps, which make libraries take their own.
        model: On the GPU.
        backends: Of every layer.
        config: Of the engine.
        dtype: Of rows.
        copies: See :func:`graph_reserve`.

    Raises:
        CapacityError: If the largest step leaves none.
    """
    device, spec = next(model.parameters()).device, model.spec
    largest, grid = worst_step(config, spec), graph_step(config, spec)
    step_bytes = measured_bytes(device, lambda: run_step(model, backends, largest))
    step_bytes += held_bytes(config, spec, dtype)
    grid_bytes = measured_bytes(device, lambda: run_step(model, backends, grid))
    reserve = graph_reserve(config, spec, dtype, step_bytes=grid_bytes, copies=copies)
    return left_for_pages(free(), step_bytes=step_bytes, graph_bytes=reserve)


def _fresh_metadata(lens: tuple[int, ...], device: torch.device) -> AttentionMetadata:
    """Requests that compute all that they read, and keep nothing."""
    count, rows = len(lens), sum(lens)
    nothing = (0,) * count
    empty = np.empty(0, np.int64)
    return AttentionMetadata(
        cu_query=upload(np.cumsum([0, *lens], dtype=np.int32), device),
        cu_read=upload(np.zeros(count + 1, np.int32), device),
        read_slots=upload(empty, device),
        slot_mapping=upload(np.full(rows, -1, np.int64), device),
        page_table=upload(np.zeros((count, 0), np.int32), device),
        query_lens=lens,
        read_lens=lens,
        fresh=(True,) * count,
        shadow_lens=nothing,
        shadow_columns=nothing,
        visible=upload(np.repeat(lens, lens).astype(np.int32), device),
        limited=(False,) * count,
        visible_runs=((),) * count,
        reads_prefix=(False,) * count,
    )
