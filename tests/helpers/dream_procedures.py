"""Dream's published generation loops, one request each, on dense logits.

    diffusion_generate    Dream-v0-Instruct-7B, generation_utils.py, arXiv 2508.15487
    fast_dllm_generate    Fast-dLLM, dream/model/generation_utils_block.py, arXiv 2505.22618,
                          with alg="confidence_threshold"

Both shift the logits by one row: a position's are those of the row in front of it. Differs in one
way that the published code has a hook for: the mask is never a candidate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from tests.helpers.llada_reference import Array, LLaDAReference
from tests.helpers.reference_caches import CachedRows
from tests.helpers.reference_engine import LogitsOf

Draw = Callable[[int, float, list[int]], Sequence[float]]
"""Step, its time and the masks -> a number from [0, 1) for each of them."""


def diffusion_generate(
    logits_of: LogitsOf,
    prompt: Sequence[int],
    *,
    mask: int,
    max_tokens: int,
    steps: int,
    alg: str,
    eps: float = 1e-3,
    draw: Draw | None = None,
) -> tuple[list[int], int]:
    """Tokens behind the prompt, and how many of the ``steps`` forwards changed something.

    Args:
        logits_of: Of the model, not shifted.
        prompt: At least one token.
        mask: The mask token.
        max_tokens: Canvas behind the prompt.
        steps: Forwards, of which those that transfer no token change nothing.
        alg: "origin", "maskgit_plus", "topk_margin" or "entropy"; greedy, alg_temp 0.
        eps: The last time step.
        draw: What stands for torch's generator with "origin".
    """
    canvas = [*prompt, *[mask] * max_tokens]
    times = torch.linspace(1, eps, steps + 1)
    num_changing = 0
    for step in range(steps):
        masks = [i for i, token in enumerate(canvas) if token == mask]
        logits = logits_of(canvas)
        logits = np.concatenate([logits[:1], logits[:-1]])[masks]
        logits[:, mask] = -np.inf
        probabilities = softmax(logits)
        best = probabilities.argmax(1)
        share = 1 - times[step + 1] / times[step]
        if alg == "origin":
            assert draw is not None
            odds = float(share) if step < steps - 1 else 1.0
            drawn = draw(step, float(times[step]), masks)
            chosen = [n for n, number in enumerate(drawn) if number < odds]
        else:
            count = int(torch.tensor(len(masks)) * share) if step < steps - 1 else len(masks)
            score = scores(probabilities, alg)
            chosen = sorted(range(len(masks)), key=lambda n: (-np.float32(score[n]), n))[:count]
        for n in chosen:
            canvas[masks[n]] = int(best[n])
        num_changing += bool(chosen)
    return canvas[len(prompt) :], num_changing


def scores(probabilities: Array, alg: str) -> Array:
    """By which masks are ordered, the surest highest: [masks]."""
    ordered = np.sort(probabilities, axis=1)
    if alg == "topk_margin":
        return np.asarray(ordered[:, -1] - ordered[:, -2])
    if alg == "entropy":
        return np.asarray((probabilities * np.log(probabilities + 1e-10)).sum(1))
    assert alg == "maskgit_plus"
    return np.asarray(ordered[:, -1])


def fast_dllm_generate(
    model: LLaDAReference,
    prompt: Sequence[int],
    *,
    mask: int,
    max_tokens: int,
    block_length: int,
    threshold: float,
    dual_cache: bool,
) -> tuple[list[int], int]:
    """Tokens behind the prompt, and forwards.

    At a block's start all rows are computed and the block's first position gets its token,
    whatever its confidence. Then the block's rows, and with the prefix cache those behind it, are
    computed again and again: the surest mask of the block goes, and every other one at or above
    the threshold. The rows in front of the block, and so the logits of its first position, stay.
    """
    assert max_tokens % block_length == 0
    canvas = [*prompt, *[mask] * max_tokens]
    cache = CachedRows(model, len(canvas))
    everything = set(range(len(canvas)))
    forwards = 0
    for start in range(len(prompt), len(canvas), block_length):
        stop = start + block_length
        logits = without(cache.compute(canvas, everything, everything), mask)
        canvas[start] = int(logits[start - 1].argmax())
        forwards += 1
        while True:
            computed = set(range(start, stop if dual_cache else len(canvas)))
            logits = without(cache.compute(canvas, computed, everything), mask)
            forwards += 1
            masks = [i for i in range(start, stop) if canvas[i] == mask]
            rows = softmax(logits[[i - 1 for i in masks]])
            sure = np.float32(rows.max(1)) if masks else np.empty(0, np.float32)
            order = sorted(range(len(masks)), key=lambda n: (-sure[n], n))
            for rank, n in enumerate(order):
                if rank == 0 or sure[n] >= threshold:
                    canvas[masks[n]] = int(rows[n].argmax())
            if mask not in canvas[start:stop]:
                break
    return canvas[len(prompt) :], forwards


def without(logits: Array, token: int) -> Array:
    """Logits with one token ruled out."""
    ruled: NDArray[np.float64] = logits.copy()
    ruled[:, token] = -np.inf
    return ruled


def softmax(logits: Array) -> Array:
    """Probabilities along the last axis."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))
