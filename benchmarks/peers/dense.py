"""The forward that peers run: the checkpoint's layers over dense [batch, length] tensors.

What a published modelling file does: no pages, no plans, one length for the whole batch, logits of
every row. Keys are kept as they are after rotation, which is the same because positions never
change. The layers, and with them the products' speed, are those that the engine runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from starr_engine.errors import ConfigError
from starr_engine.models.base import DiffusionModel

KeyValues = list[tuple[Tensor, Tensor]]
"""Of each layer, keys and values [batch, heads, length, head size]."""


@dataclass(slots=True)
class Counts:
    """What a forward was used for since they were last set to 0."""

    forwards: int = 0
    rows: int = 0
    """Padding included."""


class DenseForward:
    """Logits of dense batches.

    Args:
        model: Of masks, whose attention is bidirectional or block-causal, without a logits shift.

    Raises:
        ConfigError: If the model is of another kind.
    """

    def __init__(self, model: DiffusionModel) -> None:
        spec = model.spec
        if spec.attention_kind == "causal_context" or spec.logits_shift or spec.seeds_block:
            raise ConfigError(
                f"no peer decodes {spec.architecture}: they are written for LLaDA's and SDAR's kind"
            )
        self.model, self.mask = model, spec.mask_token_id
        self.counts = Counts()

    @property
    def device(self) -> torch.device:
        """Of the weights."""
        return next(self.model.parameters()).device

    @torch.inference_mode()
    def __call__(
        self,
        ids: Tensor,
        *,
        first: int = 0,
        past: KeyValues | None = None,
        replaces: bool = False,
        visible: Tensor | None = None,
    ) -> tuple[Tensor, KeyValues]:
        """Compute rows that follow each other.

        Args:
            ids: [batch, rows] int64, masks included.
            first: Position of the first row.
            past: Keys and values of other rows, which are read too.
            replaces: Whether ``past`` holds these rows already: they are overwritten in place.
                Otherwise they are read behind ``past``, which stays as it is.
            visible: Bool, broadcast to [batch, heads, rows, rows read]; None sees all.

        Returns:
            Logits [batch, rows, vocabulary], the mask's -inf; keys and values of all rows read.
        """
        batch, length = ids.shape
        self.counts.forwards += 1
        self.counts.rows += ids.numel()
        kept: KeyValues = []

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            q, k, v = (
                rows.view(batch, length, *rows.shape[1:]).transpose(1, 2)
                for rows in (query, key, value)
            )
            if past is not None and replaces:
                keys, values = past[layer]
                keys[:, :, first : first + length], values[:, :, first : first + length] = k, v
                k, v = keys, values
            elif past is not None:
                k, v = (torch.cat(pair, dim=2) for pair in zip(past[layer], (k, v), strict=True))
            kept.append((k, v))
            is_grouped = q.shape[1] != k.shape[1]
            mixed = scaled_dot_product_attention(q, k, v, visible, enable_gqa=is_grouped)
            return mixed.transpose(1, 2).flatten(0, 1)

        positions = torch.arange(first, first + length, device=ids.device).repeat(batch)
        hidden = self.model(ids.flatten(), positions, attend)
        logits = self.model.compute_logits(hidden).view(batch, length, -1)
        logits[..., self.mask] = -torch.inf
        return logits, kept


def block_causal(num_rows: int, block_length: int, device: torch.device) -> Tensor:
    """[num_rows, num_rows] bool: a row sees all up to the end of its own block."""
    block = torch.arange(num_rows, device=device) // block_length
    return block[None, :] <= block[:, None]
