"""Block-causal decoding a second time: without a cache, with one, and SDAR's published loop.

The mask blocks of such a model are counted from position 0, and row i sees row j where
j // B <= i // B. The blocks denoised together end at multiples of B too, so the first is shorter
where the prompt ends inside a mask block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from starr_engine.params import SamplingParams
from tests.helpers.llada_reference import Array, LLaDAReference
from tests.helpers.reference_caches import NEVER, CachedOutput, CachedRows
from tests.helpers.reference_engine import LogitsOf, reference_generate
from tests.helpers.reference_policies import plain_softmax


def block_causal_matrix(num_rows: int, mask_block: int) -> NDArray[np.bool_]:
    """[num_rows, num_rows] whether a row sees a column."""
    return np.array(
        [[j // mask_block <= i // mask_block for j in range(num_rows)] for i in range(num_rows)]
    )


def reference_block_causal(
    logits_of: LogitsOf,
    prompt: Sequence[int],
    params: SamplingParams,
    mask: int,
    eos: Sequence[int],
    mask_block: int,
    template: Sequence[int | None] | None = None,
) -> CachedOutput:
    """Generate, computing everything up to the end of the active block at every step.

    Args:
        logits_of: Logits of all rows of a canvas that ends with the active block, under the
            block-causal mask.
        prompt: Token ids; may be empty.
        params: ``block_length`` is not looked at.
        mask: The mask token.
        eos: The tokens that end an output.
        mask_block: Block length of the mask.
        template: What stands behind the prompt instead of ``max_tokens`` masks.

    Returns:
        The output; ``computed_rows`` is what the exact cache computes for it.
    """
    rows = ExactRows(mask, mask_block)

    def counted(canvas: Sequence[int]) -> Array:
        rows.step(canvas)
        return logits_of(canvas)

    out = reference_generate(counted, prompt, params, mask, eos, template, mask_block)
    return CachedOutput(
        out.token_ids, out.finish_reason, out.nfe, out.num_unmasked, rows.computed_rows
    )


class ExactRows:
    """Which rows the exact cache computes: from the mask block of the first unclean row on.

    A row is unclean if its token has changed since it was computed, or if it never was. This one
    rule fills the cache with the prompt, computes the active block, and computes a finished block
    once more, with its last tokens, together with the first step of the next one.

    Args:
        mask: The mask token.
        mask_block: Block length of the mask.
    """

    def __init__(self, mask: int, mask_block: int) -> None:
        self.mask, self.mask_block = mask, mask_block
        self.tokens: list[int] = []
        self.computed_rows = 0

    def step(self, canvas: Sequence[int]) -> range:
        """Rows to compute of a canvas that ends with the active block; counts them."""
        self.tokens += [NEVER] * (len(canvas) - len(self.tokens))
        unclean = [i for i, token in enumerate(canvas) if self.tokens[i] != token]
        # The last step always changed a token. If there was none, the masks must be computed.
        first = min([*unclean, canvas.index(self.mask)])
        computed = range(first // self.mask_block * self.mask_block, len(canvas))
        self.tokens = list(canvas)
        self.computed_rows += len(computed)
        return computed


class ExactCacheForward:
    """A ``logits_of`` that computes what :class:`ExactRows` says and reads the rest."""

    def __init__(self, model: LLaDAReference, mask: int, mask_block: int, num_rows: int) -> None:
        self.cache = CachedRows(model, num_rows)
        self.rows = ExactRows(mask, mask_block)
        self.mask_block = mask_block

    def __call__(self, canvas: Sequence[int]) -> Array:
        """Logits [len(canvas), vocabulary]; NaN where no row was computed."""
        computed = set(self.rows.step(canvas))
        return self.cache.compute(canvas, computed, set(range(len(canvas))), self.mask_block)


@dataclass(frozen=True)
class SdarOutput:
    token_ids: list[int]
    """Everything behind the prompt, to the end of the last mask block."""

    nfe: int
    """Denoising forwards."""

    num_commits: int
    """Forwards that only store the keys and values of a finished block."""


def published_sdar(
    logits_of: LogitsOf,
    prompt: Sequence[int],
    *,
    mask: int,
    max_tokens: int,
    mask_block: int,
    num_steps: int,
    threshold: float | None = None,
    stop: Sequence[int] = (),
) -> SdarOutput:
    """SDAR's own loop (JetAstra/SDAR, generate.py), taking the most probable token.

    In step t of a block n(t) tokens are due: the block's length shared out over ``num_steps``, the
    rest to the first ones. Without a threshold the n(t) most confident masks are unmasked (its
    "static" strategy); with one all masks above it, if these are n(t) or more (its "dynamic").
    The canvas is as long as whole mask blocks need, so more than ``max_tokens`` may come. A stop
    token ends the loop after its block and is left in.

    Differs in two ways: the mask is never unmasked to itself, and no more masks are taken than
    there are. The published code writes over tokens of the prompt where n(t) is the larger number,
    which needs a prompt that ends inside a mask block.
    """
    num_blocks = -(-(len(prompt) + max_tokens) // mask_block)
    canvas = [*prompt, *[mask] * (num_blocks * mask_block - len(prompt))]
    nfe = num_commits = 0
    for start in range(len(prompt) // mask_block * mask_block, len(canvas), mask_block):
        end = start + mask_block
        for step in range(num_steps):
            masks = [i for i in range(start, end) if canvas[i] == mask]
            if not masks:
                break
            due = mask_block // num_steps + (step < mask_block % num_steps)
            probabilities = plain_softmax(logits_of(canvas[:end]), mask)
            best = sorted(masks, key=lambda i: (-float(np.float32(probabilities[i].max())), i))
            chosen = best[:due]
            if threshold is not None:
                sure = [i for i in masks if np.float32(probabilities[i].max()) > threshold]
                chosen = sure if len(sure) >= due else chosen
            for i in chosen:
                canvas[i] = int(probabilities[i].argmax())
            nfe += 1
        num_commits += 1
        if any(token in canvas[len(prompt) : end] for token in stop):
            return SdarOutput(canvas[len(prompt) : end], nfe, num_commits)
    return SdarOutput(canvas[len(prompt) :], nfe, num_commits)
