"""Logits to candidates and confidences, in one pass over the vocabulary.

Letters: M scored rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from starr_engine import ops, ops_reference
from starr_engine.decoding.noise import DrawnRows, Noise, drawn_columns, drawn_rows
from starr_engine.decoding.transfer import upload


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Scores of the rows that have logits; all [M], int64 for candidates, else float32."""

    candidates: Tensor
    confidence: Tensor
    logit: Tensor
    """The model's logit of the candidate."""
    best_logit: Tensor
    """The largest one, whose probability is ``top1``."""
    top1: Tensor
    top2: Tensor
    entropy: Tensor
    proposals: Tensor
    """int64: what the candidate would be if the row held a mask."""
    proposal_confidence: Tensor

    def take(self, rows: Tensor) -> Scores:
        """The scores of some rows."""
        return Scores(
            candidates=self.candidates[rows],
            confidence=self.confidence[rows],
            logit=self.logit[rows],
            best_logit=self.best_logit[rows],
            top1=self.top1[rows],
            top2=self.top2[rows],
            entropy=self.entropy[rows],
            proposals=self.proposals[rows],
            proposal_confidence=self.proposal_confidence[rows],
        )


Statistics = Callable[[Tensor, int], tuple[Tensor, Tensor, Tensor, Tensor]]
"""Logits [M, V] and the mask token, which is left out -> the likeliest token int64, the largest and
the second largest probability and the entropy, float32, all [M]."""


def fused_statistics(logits: Tensor, mask_token_id: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``Statistics`` in one pass over the logits."""
    found = ops.logits_statistics(logits, mask_token_id)
    return found.candidate, found.top1, found.top2, found.entropy


def plain_statistics(logits: Tensor, mask_token_id: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``Statistics`` in PyTorch."""
    candidate, *numbers, _ = ops_reference.logits_statistics(
        logits, mask_token_id, dtype=torch.float32
    )
    top1, top2, entropy = numbers
    return candidate, top1, top2, entropy


def score_rows(
    logits: Tensor,
    present: Tensor,
    mask_token_id: int,
    noise: Sequence[Noise],
    drawn: DrawnRows | None = None,
    *,
    statistics: Statistics = fused_statistics,
) -> Scores:
    """Candidate and its softmax probability for every row.

    The mask token is never a candidate and has no probability. At temperature 0 the candidate is
    the arg-max, lowest id first; above, it is drawn by the Gumbel-max rule on float64 logits while
    its confidence stays the probability without noise and truncation (LLaDA, arXiv 2502.09992,
    appendix).

    Args:
        logits: [M, V] float32, bfloat16 or float16.
        present: [M] int64: the token that stands at the row, or the mask. A row that holds a
            token keeps it as its candidate, with its recomputed probability.
        mask_token_id: From the checkpoint.
        noise: Of the requests with a temperature above 0.
        drawn: ``drawn_columns`` of it, if they are on the device already.
        statistics: What reads the logits.
    """
    if logits.dtype is torch.float16:
        logits = logits.float()  # exact; the op reads float32 and bfloat16
    likeliest, top1, top2, entropy = statistics(logits, mask_token_id)
    proposals = likeliest.clone()
    if drawn is None:
        drawn = drawn_rows(*(upload(each.ravel(), logits.device) for each in drawn_columns(noise)))
    if len(drawn.rows):
        tokens = ops.gumbel_argmax(logits, *drawn, mask_token_id)
        proposals.index_copy_(0, drawn.rows, tokens)
    candidates = torch.where(present != mask_token_id, present, proposals)
    looked_up = torch.stack([likeliest, candidates, proposals], dim=1)
    best, logit, proposed = logits.gather(1, looked_up).float().unbind(1)
    # From the best logit, not from the normalizer: its float32 is coarse where logits are large.
    return Scores(
        candidates=candidates,
        confidence=top1 * torch.exp(logit - best),
        logit=logit,
        best_logit=best,
        top1=top1,
        top2=top2,
        entropy=entropy,
        proposals=proposals,
        proposal_confidence=top1 * torch.exp(proposed - best),
    )
