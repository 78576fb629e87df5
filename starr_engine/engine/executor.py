"""The forward of a step: owns the model and the pages' tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from starr_engine import ops
from starr_engine.attention.base import AttentionBackend
from starr_engine.cache.feature_pool import FeaturePool
from starr_engine.cache.pool import KVPool
from starr_engine.engine.batching import StepBatch
from starr_engine.engine.feature_forward import feature_forward
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
        self._feature_pool: FeaturePool | None = None

    @property
    def feature_bytes(self) -> int:
        """Memory of the pages of features; 0 before a request needs them."""
        return 0 if self._feature_pool is None else self._feature_pool.num_bytes

    def make_feature_pages(self) -> None:
        """Make room for what layers add to rows, once: few engines ever need it.

        Raises:
            CapacityError: If it does not fit; says how much it is.
        """
        if self._feature_pool is None:
            self._feature_pool = FeaturePool(self._kv_pool, self._model.spec.hidden_size)

    @torch.inference_mode()
    def forward(self, batch: StepBatch) -> Tensor:
        """Logits [M, vocab_size] at ``batch.logits_rows``."""
        for copy in batch.copies:
            ops.copy_pages(self._kv_pool.pages, copy.source, copy.target)
        if batch.features is None:
            hidden = self._plain_forward(batch)
        else:
            assert self._feature_pool is not None, "made when the request was added"
            hidden = feature_forward(
                self._model, self._kv_pool, self._feature_pool, self._backend, batch
            )
        return self._model.compute_logits(hidden[batch.logits_rows])

    def _plain_forward(self, batch: StepBatch) -> Tensor:
        pool, metadata = self._kv_pool, batch.attention
        keeps_rows = not all(metadata.fresh)
        step = self._backend.plan(metadata)

        def attention(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            if keeps_rows:
                pool.store(layer, key, value, metadata.slot_mapping)
            return step.attend(query, key, value, *pool.layer(layer))

        hidden: Tensor = self._model(batch.input_ids, batch.positions, attention)
        return hidden
