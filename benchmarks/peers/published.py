"""The call that published loops make of a transformers model, on the dense forward of the peers.

So an installed original runs on the same weights, layers and threads as everything else, and needs
none of the code that comes with a checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from benchmarks.peers.dense import DenseForward, KeyValues


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOutput:
    """What is read of transformers' output."""

    logits: Tensor
    """[batch, rows, vocabulary]."""

    past_key_values: KeyValues


class PublishedModel:
    """A bidirectional model as LLaDA's and Fast-dLLM's loops call it."""

    def __init__(self, forward: DenseForward) -> None:
        self.forward = forward

    @property
    def device(self) -> torch.device:
        """Of the weights."""
        return self.forward.device

    def eval(self) -> PublishedModel:
        """It always is."""
        return self

    def __call__(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: KeyValues | None = None,
        use_cache: bool = False,
        replace_position: Tensor | None = None,
    ) -> ModelOutput:
        """Compute ``input_ids`` [batch, rows].

        Args:
            input_ids: int64.
            attention_mask: [batch, rows]: 0 at padding, which nobody sees.
            past_key_values: Of the rows in front; with ``replace_position`` of all rows.
            use_cache: Keys and values are handed out whether or not.
            replace_position: [batch, all rows]: where the computed rows stand.
        """
        del use_cache
        first = 0
        if replace_position is not None:
            first = int(replace_position[0].nonzero()[0])
        elif past_key_values is not None:
            first = past_key_values[0][0].shape[2]
        visible = None if attention_mask is None else attention_mask.bool()[:, None, None, :]
        logits, kept = self.forward(
            input_ids,
            first=first,
            past=past_key_values,
            replaces=replace_position is not None,
            visible=visible,
        )
        return ModelOutput(logits=logits, past_key_values=kept)


class PublishedBlockModel(PublishedModel):
    """A block-causal model as SDAR's loop calls it."""

    def __call__(  # type: ignore[override]  # another published interface
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        past_key_values: DynamicCache,
        use_cache: bool = True,
        store_kv: bool = False,
    ) -> ModelOutput:
        """Compute ``input_ids`` [1, rows] behind what the cache holds.

        Args:
            input_ids: int64.
            attention_mask: [1, rows, rows read]: 0 where a row does not see.
            position_ids: [1, rows], rows that follow each other.
            past_key_values: transformers' own cache.
            use_cache: It always is used.
            store_kv: Whether the rows stay in it.
        """
        del use_cache
        layers: list[Any] = list(past_key_values.layers)
        past = [(layer.keys, layer.values) for layer in layers] or None
        logits, kept = self.forward(
            input_ids,
            first=int(position_ids[0, 0]),
            past=past,
            visible=attention_mask.bool()[:, None],
        )
        if store_kv:
            rows = input_ids.shape[1]
            for index, (keys, values) in enumerate(kept):
                past_key_values.update(keys[:, :, -rows:], values[:, :, -rows:], index)
        return ModelOutput(logits=logits, past_key_values=kept)
