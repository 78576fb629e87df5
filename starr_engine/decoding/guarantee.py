"""The progress guarantee: the only place that unmasks what no policy asked for."""

from __future__ import annotations

import torch
from torch import Tensor

from starr_engine.decoding.base import BlockView, Decision


def guarantee_progress(view: BlockView, decision: Decision) -> Decision:
    """Unmask the most confident mask, leftmost among equals, of every row that would unmask none.

    With it a block of L positions ends after at most L steps, if nothing is revoked.
    """
    stuck = ~(decision.unmask & view.masked).any(1) & view.masked.any(1)
    # A mask without a number, which logits of NaN give, still comes before what is no mask.
    score = view.confidence.nan_to_num(nan=-1.0).masked_fill(~view.masked, -2.0)
    best = first_argmax(score)
    forced = torch.zeros_like(view.masked).scatter_(1, best[:, None], stuck[:, None])
    return Decision(unmask=decision.unmask | forced, revoke=decision.revoke)


def first_argmax(values: Tensor) -> Tensor:
    """Lowest index of the maximum of each row: [n, L] -> [n].

    ``torch.argmax`` leaves open which of several equal values it returns. NaN counts as lowest.
    """
    length = values.shape[1]
    clean = values.nan_to_num(nan=-torch.inf)
    index = torch.arange(length, device=values.device)
    return torch.where(clean == clean.amax(1, keepdim=True), index, length).amin(1)
