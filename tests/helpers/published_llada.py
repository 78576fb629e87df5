"""LLaDA's own generation loop, which LLaDA-MoE's model card repeats."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tests.helpers.reference_engine import LogitsOf
from tests.helpers.reference_policies import plain_softmax


def published_llada(
    logits_of: LogitsOf,
    prompt: Sequence[int],
    *,
    mask: int,
    gen_length: int,
    block_length: int,
    steps: int,
) -> list[int]:
    """Greedy low-confidence remasking without guidance (ML-GSAI/LLaDA, generate.py).

    The steps are shared out over the blocks, and a block's masks over its steps, the rest to the
    first ones. Every step computes the whole canvas. Differs in that the mask is never unmasked
    to itself.

    Returns:
        The ``gen_length`` tokens behind the prompt.
    """
    canvas = [*prompt, *[mask] * gen_length]
    num_blocks = gen_length // block_length
    for block in range(num_blocks):
        start = len(prompt) + block * block_length
        due, rest = divmod(block_length, steps // num_blocks)
        for step in range(steps // num_blocks):
            masks = [i for i in range(start, start + block_length) if canvas[i] == mask]
            probabilities = plain_softmax(logits_of(canvas), mask)
            best = sorted(masks, key=lambda i: (-float(np.float32(probabilities[i].max())), i))
            for i in best[: due + (step < rest)]:
                canvas[i] = int(probabilities[i].argmax())
    return canvas[len(prompt) :]
