"""SDAR's block generation with its dynamic threshold, one prompt at a time as published.

Source:
    "SDAR", arXiv 2510.06303, and github.com/JetAstra/SDAR, generate.py, low_confidence_dynamic.
    Whole blocks of the prompt fill the cache; each block is denoised against it, and then computed
    once more with its final tokens to be kept. Differs: the most probable token is taken instead
    of a drawn one, equal confidences go from left to right, the mask is never a candidate, and no
    more masks are taken than there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.peers.asked import Asked, Prompt
from benchmarks.peers.dense import DenseForward, KeyValues, block_causal


def generate(forward: DenseForward, prompts: Sequence[Prompt], asked: Asked) -> list[list[int]]:
    """Decode one prompt whose canvas, prompt and new tokens, is whole blocks."""
    [prompt] = prompts
    begin, length = len(prompt.token_ids), asked.block_length
    canvas = torch.full((1, begin + prompt.max_tokens), asked.mask, device=forward.device)
    canvas[0, :begin] = torch.tensor(prompt.token_ids, device=forward.device)
    filled = begin - begin % length
    kept: KeyValues | None = None
    if filled:
        visible = block_causal(filled, length, forward.device)
        _, kept = forward(canvas[:, :filled], visible=visible)
    for start in range(filled, canvas.shape[1], length):
        rows = canvas[:, start : start + length]
        while bool((rows == asked.mask).any()):
            logits, _ = forward(rows, first=start, past=kept)
            _unmask(rows[0], logits[0], asked)
        _, kept = forward(rows, first=start, past=kept)
        if asked.stops_at(canvas[:, begin : start + length].tolist()):
            break
    return [canvas[0, begin:].tolist()]


def _unmask(block: Tensor, logits: Tensor, asked: Asked) -> None:
    """All masks above the threshold if these are as many as are due, else as many as are due."""
    masked = block == asked.mask
    confidence, candidate = logits.softmax(-1).max(-1)
    score = torch.where(masked, confidence, -torch.inf)
    due = score.argsort(descending=True, stable=True)[: asked.tokens_per_step]
    chosen = due[masked[due]]
    if asked.threshold is not None:
        sure = (score > asked.threshold).nonzero()[:, 0]
        chosen = sure if len(sure) >= asked.tokens_per_step else chosen
    block[chosen] = candidate[chosen]
