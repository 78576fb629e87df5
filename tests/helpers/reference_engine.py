"""The whole engine in a hundred lines: one request, full canvas, no cache, plain softmax.

Obviously right rather than fast. The engine with cache ``none`` must equal it token for token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from starr_engine.params import SamplingParams
from tests.helpers.reference_policies import Look, make_rule, plain_softmax

WEYL = 0x9E3779B97F4A7C15

LogitsOf = Callable[[Sequence[int]], NDArray[np.float64]]
"""Canvas ids -> logits [len(canvas), vocabulary]."""


@dataclass(frozen=True)
class ReferenceOutput:
    token_ids: list[int]
    finish_reason: str
    nfe: int
    num_unmasked: int


def reference_generate(
    logits_of: LogitsOf,
    prompt: Sequence[int],
    params: SamplingParams,
    mask: int,
    eos: Sequence[int],
    template: Sequence[int | None] | None = None,
    mask_block: int | None = None,
    shift: int = 0,
    opens_block: bool = False,
) -> ReferenceOutput:
    """Generate; ``template`` is what stands behind the prompt instead of ``max_tokens`` masks.

    With ``mask_block`` the model is block-causal: blocks end at multiples of ``block_length``, and
    ``logits_of`` is given the canvas up to the end of the active mask block, behind which nothing
    exists. With ``opens_block`` the active block may lie anywhere, and nothing exists behind it.
    ``shift`` rows in front of a position stand its logits.
    """
    canvas = list(prompt) + [mask] * params.max_tokens
    banned = [mask]
    ends = set(params.stop_token_ids) | (set() if params.ignore_eos else set(eos))
    if template is not None:
        canvas = [*prompt, *(mask if token is None else token for token in template)]
        banned, ends = [mask, *eos], set()
    fixed = [token != mask for token in canvas]
    first, last = fixed.index(False), len(fixed) - fixed[::-1].index(False)
    nfe = unmasked = 0
    edges = None if opens_block else mask_block
    block_length = params.block_length or mask_block or 32
    if edges is not None and edges % block_length:
        block_length = edges
    for start, stop in blocks_of(first, last, block_length, edges and block_length):
        length = stop - start
        live = stop if opens_block else min(-(-stop // (mask_block or 1)) * (mask_block or 1), last)
        if mask_block is None:
            live = len(canvas)
        rule = make_rule(params.remasking, length, dict(params.remasking_args))
        block = range(start, start + length)
        while any(canvas[i] == mask for i in block):
            logits = logits_of(canvas[:live])[start - shift : stop - shift].copy()
            logits[:, banned] = -np.inf
            probabilities = plain_softmax(logits, mask)
            masked = [canvas[i] == mask for i in block]
            candidates = choose(
                logits, probabilities, params, nfe, masked, [fixed[i] for i in block]
            )
            candidates = [
                c if m else canvas[i] for c, m, i in zip(candidates, masked, block, strict=True)
            ]
            confidence = [
                1.0 if fixed[i] else float(np.float32(probabilities[i - start, c]))
                for i, c in zip(block, candidates, strict=True)
            ]
            entropy = [float(-np.sum(p * np.log(np.maximum(p, 1e-300)))) for p in probabilities]
            unmask, revoke = rule.decide(Look(candidates, confidence, masked, start, entropy))
            revoke = {i for i in revoke if not fixed[start + i]}
            if not unmask:
                best = max(confidence[i] for i in range(length) if masked[i])
                unmask = {next(i for i in range(length) if masked[i] and confidence[i] == best)}
            for i in unmask:
                canvas[start + i] = candidates[i]
            for i in revoke:
                canvas[start + i] = mask
            nfe += 1
            unmasked += len(unmask) - len(revoke)
        output = canvas[first:stop]
        found = [at for at, token in enumerate(output) if token in ends]
        if found:
            return ReferenceOutput(output[: found[0]], "stop", nfe, unmasked)
    return ReferenceOutput(canvas[first:last], "length", nfe, unmasked)


def blocks_of(
    first: int, last: int, length: int, mask_block: int | None = None
) -> Iterator[tuple[int, int]]:
    """First position and the one behind the last of each block of [first, last).

    Blocks are counted from ``first``, or from position 0 if the model's attention knows blocks.
    """
    start = first
    while start < last:
        stop = start + length if mask_block is None else (start // length + 1) * length
        yield start, min(stop, last)
        start = stop


def choose(
    logits: NDArray[np.float64],
    probabilities: NDArray[np.float64],
    params: SamplingParams,
    step: int,
    masked: list[bool],
    fixed: list[bool],
) -> list[int]:
    """Arg-max, or Gumbel-max with the noise that seed, step and place give to each mask."""
    if params.temperature == 0:
        return [int(i) for i in probabilities.argmax(1)]
    every = params.remasking_args.get("revoke_below") is not None
    rows = [i for i, is_mask in enumerate(masked) if is_mask or (every and not fixed[i])]
    noisy = logits.copy()
    for i in rows:
        noisy[i] += params.temperature * gumbel(params.seed, step, i, logits.shape[1])
    return [int(i) for i in noisy.argmax(1)]


def gumbel(seed: int, step: int, place: int, vocab_size: int) -> NDArray[np.float64]:
    """Noise of every token, from SplitMix64 whose state is hashed from seed, step and place."""
    key = mix(seed + WEYL)
    for word in (step, place):
        key = mix((key ^ word) + WEYL)
    bits = [mix(key + (token + 1) * WEYL) >> 12 for token in range(vocab_size)]
    uniform = (np.array(bits, np.float64) + 0.5) / 2**52
    return -np.log(-np.log(uniform))


def mix(state: int) -> int:
    """SplitMix64's output of a state, both below 2^64."""
    state %= 2**64
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ state >> 27) * 0x94D049BB133111EB % 2**64
    return state ^ state >> 31
