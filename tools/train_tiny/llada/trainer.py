"""Training of tiny-llada: from nothing, every position attends to every position."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from tools.train_tiny.data import Batch, hide
from tools.train_tiny.llada.decode import decode
from tools.train_tiny.llada.model import ModelConfig, TinyLLaDA, initialise
from tools.train_tiny.schedule import Phase
from tools.train_tiny.trainer import Hidden, Trainer


class LLaDATrainer(Trainer):
    """LLaDA's objective on LLaDA's architecture."""

    name = "tiny-llada"
    model: TinyLLaDA

    def make_model(self, compiled: bool) -> nn.Module:
        """Return a model with weights drawn from the seed."""
        model = TinyLLaDA(ModelConfig(vocab_size=len(self.tokenizer)))
        initialise(model, self.config.seed, self.config.mimetic)
        # lengths differ from batch to batch: one graph for all of them
        self._hidden = torch.compile(model.hidden, dynamic=True) if compiled else model.hidden
        return model

    def predict(self, batch: Batch, phase: Phase) -> Hidden:
        """Hide some of ``batch`` and run the model."""
        masked = hide(batch, self.mask_id, self.generator, phase.chain_share)
        ids, hidden, weight = (tensor.to(self.device) for tensor in masked)
        return Hidden(self.model.logits(self._hidden(ids)[hidden]), hidden, weight)

    def decode(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return the answers' ids, one token per step."""
        return decode(self.model, prompts, self.mask_id, self.eos_id)
