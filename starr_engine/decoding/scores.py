"""Logits to candidates and confidences, in one pass over the vocabulary.

Letters: M scored rows, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from starr_engine import ops, ops_reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Scores of the rows that have logits; all [M], int64 for candidates, else float32."""

    candidates: Tensor
    confidence: Tensor
    logit: Tensor
    """The model's logit of the candidate."""
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
            top1=self.top1[rows],
            top2=self.top2[rows],
            entropy=self.entropy[rows],
            proposals=self.proposals[rows],
            proposal_confidence=self.proposal_confidence[rows],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Gumbel noise for the consecutive logits rows of one request at one step."""

    rows: slice

    offsets: NDArray[np.int64]
    """Of each row within its block: a position's noise does not depend on the others scored."""

    temperature: float
    seed: int
    step: int
    """Counts the request's forwards, so that each step draws anew."""

    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    """What may be drawn at all; see :func:`truncate`."""


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
        statistics: What reads the logits.
    """
    if logits.dtype is torch.float16:
        logits = logits.float()  # exact; the op reads float32 and bfloat16
    likeliest, top1, top2, entropy = statistics(logits, mask_token_id)
    proposals = likeliest.clone()
    for draw in noise:
        allowed = logits[draw.rows].double()
        allowed[:, mask_token_id] = -torch.inf
        proposals[draw.rows] = add_gumbel(allowed, draw).argmax(-1)
    candidates = torch.where(present != mask_token_id, present, proposals)
    looked_up = torch.stack([likeliest, candidates, proposals], dim=1)
    best, logit, proposed = logits.gather(1, looked_up).float().unbind(1)
    # From the best logit, not from the normalizer: its float32 is coarse where logits are large.
    return Scores(
        candidates=candidates,
        confidence=top1 * torch.exp(logit - best),
        logit=logit,
        top1=top1,
        top2=top2,
        entropy=entropy,
        proposals=proposals,
        proposal_confidence=top1 * torch.exp(proposed - best),
    )


def add_gumbel(logits: Tensor, draw: Noise) -> Tensor:
    """``logits`` [m, V] of one request in float64, with the noise of its step and temperature.

    What truncation leaves out is -inf. The mask token's logit must be -inf already.
    """
    gumbel = gumbel_noise(draw.offsets, logits.shape[1], seed=draw.seed, step=draw.step)
    return truncate(logits.double(), draw) + draw.temperature * _moved(gumbel, logits.device)


def truncate(logits: Tensor, draw: Noise) -> Tensor:
    """-inf for what may not be drawn by softmax(logits / temperature); [m, V] float64.

    In vLLM's order: min-p (arXiv 2407.01082) keeps tokens at least ``min_p`` times as probable as
    the best; top-k keeps the k best and those equal to the last of them; top-p keeps the most
    probable of what is left, lowest id first among equals, until they hold ``top_p`` of its mass.
    At least one token is always kept.
    """
    if draw.min_p > 0:
        floor = logits.amax(-1, keepdim=True) + draw.temperature * math.log(draw.min_p)
        logits = logits.masked_fill(logits < floor, -torch.inf)
    if 0 < draw.top_k < logits.shape[-1]:
        last = logits.topk(draw.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < last, -torch.inf)
    if draw.top_p < 1:
        probabilities = (logits / draw.temperature).softmax(-1)
        ordered, ids = probabilities.sort(dim=-1, descending=True, stable=True)
        # The mass in front of a token, without its own: the first always stays.
        is_behind = ordered.cumsum(-1) - ordered >= draw.top_p
        logits = logits.masked_fill(is_behind.scatter(1, ids, is_behind), -torch.inf)
    return logits


def gumbel_noise(offsets: NDArray[np.int64], vocab_size: int, *, seed: int, step: int) -> Tensor:
    """Float64 Gumbel noise on the CPU, so that a seed gives the same tokens on every device.

    Args:
        offsets: [m] places within a block; each has noise of its own.
        vocab_size: V.
        seed: Of the request.
        step: Of the request.

    Returns:
        [m, V].
    """
    uniform = torch.empty((len(offsets), vocab_size), dtype=torch.float64)
    if not len(offsets):
        return uniform
    # The step is a spawn key: in one list of words a seed beyond 32 bits could pass for a step.
    sequence = np.random.SeedSequence(seed, spawn_key=(step,))
    states = sequence.generate_state(int(offsets.max()) + 1, np.uint64)[offsets] >> np.uint64(1)
    for row, state in zip(uniform, states.tolist(), strict=True):
        row.uniform_(generator=torch.Generator().manual_seed(state))
    return -torch.log(-torch.log(uniform.clamp_min(torch.finfo(torch.float64).tiny)))


def _moved(noise: Tensor, device: torch.device) -> Tensor:
    """On the device, for which the host does not wait."""
    if device.type == "cuda":
        return noise.pin_memory().to(device, non_blocking=True)
    return noise.to(device)
