"""Fast-dLLM's two caches with its parallel decoding, one prompt at a time as published.

Source:
    "Fast-dLLM", arXiv 2505.22618, and github.com/NVlabs/Fast-dLLM, llada/generate.py. A forward
    over the whole canvas opens each block, is its first step and fills the cache; it is followed
    by at least one forward of the block, even if there is no mask left, as in the published loop.
    Differs: equal confidences go from left to right, the mask is never a candidate, and decoding
    may end early if it is asked to.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.peers.asked import Asked, Prompt
from benchmarks.peers.dense import DenseForward


def prefix_cache(forward: DenseForward, prompts: Sequence[Prompt], asked: Asked) -> list[list[int]]:
    """Inside a block compute it and all behind it; what is in front comes from the cache."""
    return _generate(forward, prompts, asked, dual=False)


def dual_cache(forward: DenseForward, prompts: Sequence[Prompt], asked: Asked) -> list[list[int]]:
    """Inside a block compute it alone, and put its keys and values in place of the cached ones."""
    return _generate(forward, prompts, asked, dual=True)


def _generate(
    forward: DenseForward, prompts: Sequence[Prompt], asked: Asked, *, dual: bool
) -> list[list[int]]:
    [prompt] = prompts
    begin = len(prompt.token_ids)
    canvas = torch.full((1, begin + prompt.max_tokens), asked.mask, device=forward.device)
    canvas[0, :begin] = torch.tensor(prompt.token_ids, device=forward.device)
    for start in range(begin, canvas.shape[1], asked.block_length):
        stop = start + asked.block_length
        block = canvas[0, start:stop]
        logits, cached = forward(canvas)
        _unmask(block, logits[0, start:stop], asked)
        if not dual:
            cached = [(keys[:, :, :start], values[:, :, :start]) for keys, values in cached]
        while True:
            computed = canvas[:, start : stop if dual else None]
            logits, _ = forward(computed, first=start, past=cached, replaces=dual)
            _unmask(block, logits[0, : asked.block_length], asked)
            if not bool((block == asked.mask).any()):
                break
        if asked.stops_at(canvas[:, begin:stop].tolist()):
            break
    return [canvas[0, begin:].tolist()]


def _unmask(block: Tensor, logits: Tensor, asked: Asked) -> None:
    """The most confident mask, and with it all that reach the threshold, or a fixed number."""
    masked = block == asked.mask
    count = int(masked.sum())
    confidence, candidate = logits.double().softmax(-1).max(-1)
    score = torch.where(masked, confidence, -torch.inf)
    best = score.argsort(descending=True, stable=True)[:count]
    if asked.threshold is None:
        best = best[: asked.tokens_per_step]
    else:
        is_sure = score[best] >= asked.threshold
        is_sure[:1] = True
        best = best[is_sure]
    block[best] = candidate[best]
