"""End tokens after everything else: how a policy sees a mask whose candidate is one.

Its confidence, top-1 and top-2 are 0 and its entropy is that of no knowledge, log V, so that every
other mask comes first; when only such masks are left the progress guarantee takes them from the
left. A policy that reads logits sees a flat row instead, whose arg-max is still the candidate. An
end token that is proposed where another token stands has a confidence of 0 too.

The intent of ``confidence_eos_eot_inf`` in LLaDA's evaluation. Its code writes the confidence of
EoT, and at temperature 0 through an alias that of EOS too, into logits; above temperature 0 EOS
escapes it. Here both are treated alike at every temperature.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import torch
from torch import Tensor

from starr_engine.decoding.scores import Scores
from starr_engine.decoding.transfer import upload

_ABOVE: Final = 1e-3  # what makes the candidate the arg-max of a flat row


def late_rows(
    proposals: Tensor, late_ids: Sequence[tuple[int, ...]], counts: Sequence[int]
) -> Tensor | None:
    """Where an end token is proposed that waits, bool [M]; None if no request asks for it.

    Args:
        proposals: [M] of the rows of n requests.
        late_ids: [n] end tokens of each request that asks, empty for the others.
        counts: [n] rows of each.
    """
    if not any(late_ids):
        return None
    late = [
        torch.isin(proposed, upload(np.array(ids, np.int64), proposed.device))
        for proposed, ids in zip(torch.split(proposals, list(counts)), late_ids, strict=True)
    ]
    return torch.cat(late)


def postpone(scores: Scores, late: Tensor, late_proposals: Tensor, vocab_size: int) -> Scores:
    """``scores`` with the least there is at the ``late`` rows, bool [M].

    ``late_proposals`` [M] are those and the rows whose token an end token would take the place of.
    """
    return replace(
        scores,
        confidence=scores.confidence.masked_fill(late, 0.0),
        top1=scores.top1.masked_fill(late, 0.0),
        top2=scores.top2.masked_fill(late, 0.0),
        entropy=scores.entropy.masked_fill(late, math.log(vocab_size)),
        proposal_confidence=scores.proposal_confidence.masked_fill(late_proposals, 0.0),
    )


def flatten(logits: Tensor, candidates: Tensor, late: Tensor) -> Tensor:
    """``logits`` [M, V] with flat rows where ``late``; what is forbidden stays so."""
    flat = torch.where(logits == -torch.inf, logits, 0.0)
    flat = flat.scatter(1, candidates[:, None], _ABOVE)
    return torch.where(late[:, None], flat, logits)
