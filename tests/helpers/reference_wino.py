"""WINO a second time, as one dense loop: the canvas with its shadow block, a mask matrix, no cache.

Obviously right rather than fast: the shadow block is computed at every step, in full.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields

import numpy as np
from numpy.typing import NDArray

from starr_engine.decoding.policies.wino import WinoPolicy
from starr_engine.params import SamplingParams
from tests.helpers.reference_engine import ReferenceOutput, choose
from tests.helpers.reference_policies import plain_softmax

MaskedLogitsOf = Callable[[Sequence[int], Sequence[int], NDArray[np.bool_]], NDArray[np.float64]]
"""Ids, positions and which row sees which -> logits [rows, vocabulary]."""


def reference_wino(
    logits_of: MaskedLogitsOf,
    prompt: Sequence[int],
    params: SamplingParams,
    mask: int,
    eos: Sequence[int],
    template: Sequence[int | None] | None = None,
) -> ReferenceOutput:
    args = {entry.name: entry.default for entry in fields(WinoPolicy)} | dict(params.remasking_args)
    canvas = list(prompt) + [mask] * params.max_tokens
    banned = [mask]
    ends = set(params.stop_token_ids) | (set() if params.ignore_eos else set(eos))
    if template is not None:
        canvas = [*prompt, *(mask if token is None else token for token in template)]
        banned, ends = [mask, *eos], set()
    fixed = [token != mask for token in canvas]
    first, end = fixed.index(False), len(fixed) - fixed[::-1].index(False)
    nfe = unmasked = 0
    for start in range(first, end, params.block_length):
        length = min(params.block_length, end - start)
        settled = fixed[start : start + length]
        last, num_revoked = 30, 0
        visible = shadow_matrix(len(canvas), start, length)
        positions = [*range(len(canvas)), *range(start, start + length)]
        while mask in canvas[start : start + length]:
            logits = logits_of(canvas + [mask] * length, positions, visible).copy()
            logits[:, banned] = -np.inf
            block = logits[start : start + length]
            probabilities = plain_softmax(block, mask)
            checks = plain_softmax(logits[len(canvas) :], mask)
            tokens = canvas[start : start + length]
            masks = [i for i in range(length) if tokens[i] == mask]
            masked = [token == mask for token in tokens]
            candidates = choose(block, probabilities, params, nfe, masked, settled)
            confidence = {i: float(probabilities[i, candidates[i]]) for i in masks}
            check = {
                i: float(checks[i, tokens[i]])
                for i in range(length)
                if not masked[i] and not settled[i]
            }

            best_first = sorted(masks, key=lambda i: (-confidence[i], i))
            cap = min(max(int(args["cap_share"] * len(masks)), args["cap_min"]), args["cap_max"])
            unmask = [i for i in best_first if confidence[i] > args["tau1"]][:cap]
            unmask = unmask or best_first[:1]
            revoke = sorted((i for i in check if check[i] < args["tau2"]), key=lambda i: check[i])
            if len(unmask) == 1:
                revoke = []
            if len(revoke) >= last:
                revoke = revoke[: last - 1]
            last = len(unmask)
            if num_revoked >= 4 * length:  # the engine's bound for every policy
                revoke = []
            num_revoked += len(revoke)
            for i in unmask:
                canvas[start + i] = candidates[i]
            for i in revoke:
                canvas[start + i] = mask
            nfe += 1
            unmasked += len(unmask) - len(revoke)
        output = canvas[first : start + length]
        found = [at for at, token in enumerate(output) if token in ends]
        if found:
            return ReferenceOutput(output[: found[0]], "stop", nfe, unmasked)
    return ReferenceOutput(canvas[first:end], "length", nfe, unmasked)


def shadow_matrix(num_rows: int, start: int, length: int) -> NDArray[np.bool_]:
    """Which row sees which, the shadow block of rows [start, start + length) last."""
    visible = np.zeros((num_rows + length, num_rows + length), bool)
    for row in range(num_rows + length):
        for column in range(num_rows + length):
            if row < num_rows:
                visible[row, column] = column < num_rows
            else:
                visible[row, column] = column != start + row - num_rows
    return visible
