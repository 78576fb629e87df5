"""The forward of a step: owns the model and the pages' tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from starr_engine import ops
from starr_engine.attention.base import AttentionBackend
from starr_engine.cache.pool import KVPool
from starr_engine.engine.batching import StepBatch
from starr_engine.models.base import DiffusionModel


class Executor:
    """Runs batches; keys and values are written and read through pages on the way.

    Args:
        model: On its device, in its dtype.
        kv_pool: On the same device.
        backend: Supports the model's shape.
    """

    def __init__(self, model: DiffusionModel, kv_pool: KVPool, backend: AttentionBackend) -> None:
        self._model = model
        self._kv_pool = kv_pool
        self._backend = backend

    @torch.inference_mode()
    def forward(self, batch: StepBatch) -> Tensor:
        """Logits [M, vocab_size] at ``batch.logits_rows``."""
        pool, metadata = self._kv_pool, batch.attention
        keeps_rows = not all(metadata.fresh)
        step = self._backend.plan(metadata)
        for copy in batch.copies:
            ops.copy_pages(pool.pages, copy.source, copy.target)

        def attention(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            if keeps_rows:
                pool.store(layer, key, value, metadata.slot_mapping)
            return step.attend(query, key, value, *pool.layer(layer))

        hidden = self._model(batch.input_ids, batch.positions, attention)
        return self._model.compute_logits(hidden[batch.logits_rows])
