"""Whether an engine records steps, and which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch

from starr_engine.attention.base import AttentionBackend
from starr_engine.attention.fixed import recordable
from starr_engine.cache.pool import KVPool
from starr_engine.config import ResolvedConfig
from starr_engine.engine.graphs.buckets import BucketRule, default_counts
from starr_engine.engine.graphs.recorder import CudaGraphRecorder, Recorder
from starr_engine.engine.graphs.runner import GraphRunner
from starr_engine.layers.experts import Experts, recording_obstacle
from starr_engine.models.base import DiffusionModel

SEQUENCES_EACH: Final = 2
"""Of a request of a model with blocks, when a block is committed with the next one's first step."""


def make_runner(
    config: ResolvedConfig,
    model: DiffusionModel,
    kv_pool: KVPool,
    backends: Sequence[AttentionBackend],
    device: torch.device,
    recorder: Recorder | None,
) -> GraphRunner | None:
    """The runner of an engine; None if it records nothing.

    Args:
        config: Of the engine.
        model: On its device.
        kv_pool: Its pages.
        backends: Of every layer.
        device: Of the model.
        recorder: None takes CUDA graphs, on CUDA.
    """
    if config.cuda_graphs == "off" or (recorder is None and device.type != "cuda"):
        return None
    backend = recordable(backends[0])
    if backend is None or obstacles(model, backends, device=device):
        return None
    rule = BucketRule(
        sequence_counts=bucket_counts(config, model),
        page_size=config.page_size,
        max_pages=-(-config.max_model_len // config.page_size),
        copies_table=backend.copies_table,
    )
    return GraphRunner(model, kv_pool, backend, recorder or CudaGraphRecorder(device), rule)


def bucket_counts(config: ResolvedConfig, model: DiffusionModel) -> tuple[int, ...]:
    """The numbers of sequences asked for, or those that the engine's requests may become."""
    if config.graph_buckets is not None:
        return tuple(config.graph_buckets)
    each = 1 if model.spec.mask_block is None else SEQUENCES_EACH
    return default_counts(config.max_num_requests, each)


def obstacles(
    model: DiffusionModel,
    backends: Sequence[AttentionBackend] = (),
    *,
    device: torch.device,
    dtype: torch.dtype | None = None,
) -> list[str]:
    """Every reason why no step of a model can be recorded.

    Args:
        model: Its parameters may still be on ``meta``.
        backends: Of its layers; none if they are not known.
        device: Where it runs.
        dtype: Of its weights; None takes that of the parameters.
    """
    spec = model.spec
    reasons = []
    if model.ranks is not None:
        reasons.append("the model is split over ranks, which would have to record together")
    if spec.self_conditioning:
        reasons.append("rows are told of the last step's logits")
    if spec.has_windows:
        reasons.append("layers see windows, whose rows differ from step to step")
    if len({id(backend) for backend in backends}) > 1:
        reasons.append("layers have heads of several shapes")
    reasons += [
        f"attention backend {backend.name!r} cannot be recorded"
        for backend in backends[:1]
        if recordable(backend) is None
    ]
    experts = next((part for part in model.modules() if isinstance(part, Experts)), None)
    if experts is not None and (
        obstacle := recording_obstacle(device, dtype or experts.down.dtype)
    ):
        reasons.append(obstacle)
    return reasons
