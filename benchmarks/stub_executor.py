"""Stands in for the forward where only the engine's own cost is measured."""

from __future__ import annotations

import torch
from torch import Tensor

from starr_engine.engine.step_batch import StepBatch
from starr_engine.models.base import DiffusionModel


class StubExecutor:
    """Gives logits that nobody computed.

    Args:
        model: That would have computed them.
    """

    def __init__(self, model: DiffusionModel) -> None:
        self.model = model
        generator = torch.Generator().manual_seed(0)
        self._logits = torch.randn(1 << 14, model.spec.vocab_size, generator=generator)

    def upload(self, batch: StepBatch) -> StepBatch:
        """As it is."""
        return batch

    def forward(self, batch: StepBatch) -> Tensor:
        """[M, vocab_size]."""
        count = len(batch.logits_rows)
        return self._logits[torch.arange(count) % len(self._logits)]
