"""Training of tiny-sdar: from the weights of tiny-llada, with attention that is block-causal."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import nn

from tools.train_tiny.data import Batch
from tools.train_tiny.schedule import Phase
from tools.train_tiny.sdar.decode import decode
from tools.train_tiny.sdar.model import SdarConfig, TinySDAR
from tools.train_tiny.sdar.objective import hide_in_blocks, lay_out
from tools.train_tiny.sdar.schedule import BLOCK_LENGTH
from tools.train_tiny.sdar.warm_start import warm_start
from tools.train_tiny.trainer import Hidden, Trainer

_lay_out = lru_cache(maxsize=4096)(lay_out)


class SDARTrainer(Trainer):
    """Block diffusion on SDAR's architecture."""

    name = "tiny-sdar"
    block_causal = BLOCK_LENGTH
    model: TinySDAR

    def make_model(self, compiled: bool) -> nn.Module:
        """Return a model with the weights of the shipped tiny-llada."""
        model = TinySDAR(SdarConfig(vocab_size=len(self.tokenizer)))
        warm_start(model, self.tokenizer)
        self._states = torch.compile(model.states, dynamic=True) if compiled else model.states
        return model

    def predict(self, batch: Batch, phase: Phase) -> Hidden:
        """Hide some of every block of ``batch`` and run the model."""
        masked = hide_in_blocks(
            batch, BLOCK_LENGTH, self.mask_id, self.generator, phase.chain_share
        )
        noisy, hidden, weight = masked
        layout = _lay_out(batch.prompt_len, batch.ids.shape[1], BLOCK_LENGTH)
        rows = torch.cat((batch.ids[:, : layout.last], noisy[:, layout.start :]), dim=1)
        device = self.device
        states, _ = self._states(
            rows.to(device), layout.positions.to(device), layout.hidden.to(device)
        )
        hidden, weight = hidden.to(device), weight.to(device)
        logits = self.model.logits(states[:, layout.last :][hidden[:, layout.start :]])
        return Hidden(logits, hidden, weight)

    def decode(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return the answers' ids, one token per step."""
        return decode(self.model, prompts, self.mask_id, self.eos_id)
