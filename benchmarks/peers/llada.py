"""LLaDA's own procedure: no cache, a fixed number of tokens per step, blocks from left to right.

Source:
    "Large Language Diffusion Models", arXiv 2502.09992, section 2.4 (low-confidence remasking),
    and github.com/ML-GSAI/LLaDA, generate.py. Differs: equal confidences go from left to right,
    the mask is never a candidate, and decoding may end early if it is asked to; the published loop
    never does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from benchmarks.peers.asked import Asked, Prompt
from benchmarks.peers.dense import DenseForward


def generate(forward: DenseForward, prompts: Sequence[Prompt], asked: Asked) -> list[list[int]]:
    """Decode one batch, padded on the left to its longest prompt as published.

    All prompts must ask for equally many tokens, whole blocks.
    """
    device, max_tokens = forward.device, prompts[0].max_tokens
    longest = max(len(prompt.token_ids) for prompt in prompts)
    padding = [longest - len(prompt.token_ids) for prompt in prompts]
    canvas = torch.full((len(prompts), longest + max_tokens), asked.mask, device=device)
    visible = torch.ones(canvas.shape, dtype=torch.bool, device=device)
    for row, (prompt, pad) in enumerate(zip(prompts, padding, strict=True)):
        canvas[row, :longest] = torch.tensor((0,) * pad + prompt.token_ids, device=device)
        visible[row, :pad] = False
    sees = visible[:, None, None, :] if any(padding) else None
    for start in range(longest, canvas.shape[1], asked.block_length):
        block = slice(start, start + asked.block_length)
        for _ in range(asked.block_length // asked.tokens_per_step):
            logits, _ = forward(canvas, visible=sees)
            confidence, candidate = logits.softmax(-1).max(-1)
            masked = canvas[:, block] == asked.mask
            score = torch.where(masked, confidence[:, block], -torch.inf)
            best = score.argsort(dim=1, descending=True, stable=True)[:, : asked.tokens_per_step]
            canvas[:, block].scatter_(1, best, candidate[:, block].gather(1, best))
        if asked.stops_at(canvas[:, longest : block.stop].tolist()):
            break
    return [row.tolist() for row in canvas[:, longest:]]
