"""The generation loops that the authors of LLaDA2.0 and 2.1 published, one request, no cache.

Both fill a canvas of whole blocks of the mask behind the prompt, block by block, with the most
probable tokens; the prompt's last tokens may stand in the first of these blocks. Differs from the
published code in that the mask is never unmasked to itself, and in that rows see no later block
even where the loop of 2.1 hands newer versions of transformers a mask that is only added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tests.helpers.llada_reference import Array
from tests.helpers.reference_engine import LogitsOf, blocks_of
from tests.helpers.reference_policies import plain_softmax


@dataclass(frozen=True)
class PublishedOutput:
    token_ids: list[int]
    """Behind the prompt, up to the first end token, which is left out."""

    nfe: int
    num_edited: int = 0


def _look(logits: Array, mask: int) -> tuple[list[int], list[np.float32]]:
    probabilities = plain_softmax(logits, mask)
    best = probabilities.argmax(1)
    return best.tolist(), [np.float32(row[token]) for row, token in zip(probabilities, best,
                                                                       strict=True)]  # fmt: skip


def _best(masks: Sequence[int], confidence: Sequence[np.float32], count: int) -> list[int]:
    return sorted(masks, key=lambda i: (-confidence[i], i))[:count]


def _output(canvas: list[int], first: int, ends: Sequence[int], **counts: int) -> PublishedOutput:
    ids = canvas[first:]
    found = [at for at, token in enumerate(ids) if token in ends]
    return PublishedOutput(ids[: found[0]] if found else ids, **counts)


def published_llada2_0(
    logits_of: LogitsOf,
    prompt: Sequence[int],
    *,
    mask: int,
    ends: Sequence[int],
    max_tokens: int,
    block_length: int = 32,
    num_steps: int = 32,
    threshold: float = 0.95,
) -> PublishedOutput:
    """LLaDA2.0's ``generate``: a threshold, and at least an even share of the block at every step.

    Args:
        logits_of: Of all rows of a canvas that ends with the active block.
        prompt: Token ids.
        mask: The mask token.
        ends: End tokens; the loop stops when one was put and nothing in front of it is a mask.
        max_tokens: So many that the canvas ends with a block.
        block_length: Of the attention mask.
        num_steps: Over which a block is shared out.
        threshold: Above which every mask of the block is unmasked.
    """
    assert (len(prompt) + max_tokens) % block_length == 0
    canvas = [*prompt, *[mask] * max_tokens]
    nfe = 0
    for start in range(len(prompt) // block_length * block_length, len(canvas), block_length):
        stop = start + block_length
        for step in range(num_steps):
            masks = [i for i in range(start, stop) if canvas[i] == mask]
            if not masks:
                break
            due = block_length // num_steps + (step < block_length % num_steps)
            tokens, confidence = _look(logits_of(canvas[:stop]), mask)
            nfe += 1
            sure = [i for i in masks if confidence[i] > threshold]
            chosen = sure if len(sure) >= due else _best(masks, confidence, due)
            for i in chosen:
                canvas[i] = tokens[i]
            if any(tokens[i] in ends for i in chosen):
                first = next(i for i in range(len(prompt), stop) if canvas[i] in ends)
                if mask not in canvas[:first]:
                    return _output(canvas[:stop], len(prompt), ends, nfe=nfe)
        if any(token in ends for token in canvas[len(prompt) : stop]):
            return _output(canvas[:stop], len(prompt), ends, nfe=nfe)
    return _output(canvas, len(prompt), ends, nfe=nfe)


def published_llada2_1(
    logits_of: LogitsOf,
    prompt: Sequence[int],
    *,
    mask: int,
    ends: Sequence[int],
    max_tokens: int,
    block_length: int = 32,
    threshold: float = 0.7,
    edit_threshold: float = 0.5,
    max_post_steps: int = 16,
    num_to_transfer: int = 1,
    bidirectional: bool = False,
) -> PublishedOutput:
    """LLaDA2.1's ``generate``: as 2.0's, and tokens of the block give way to surer ones.

    A block without masks gets up to ``max_post_steps`` more forwards, the last of which is the
    first that changes nothing. Arguments as of :func:`published_llada2_0`, and:

    Args:
        logits_of: As above.
        prompt: As above; its tokens are never edited.
        mask: As above.
        ends: As above; looked for at the end of a block only.
        max_tokens: As above.
        block_length: As above.
        threshold: As above.
        edit_threshold: Above which another token than the one that stands there replaces it.
        max_post_steps: Forwards on a block without masks.
        num_to_transfer: Masks that every step unmasks at least.
        bidirectional: Whether rows see the whole canvas; blocks are counted from the prompt's end
            then, and ``max_tokens`` is free.
    """
    assert bidirectional or (len(prompt) + max_tokens) % block_length == 0
    canvas = [*prompt, *[mask] * max_tokens]
    nfe = num_edited = 0
    mask_block = None if bidirectional else block_length
    for start, stop in blocks_of(len(prompt), len(canvas), block_length, mask_block):
        posts = 0
        while True:
            masks = [i for i in range(start, stop) if canvas[i] == mask]
            if not masks:
                posts += 1
                if posts > max_post_steps:
                    break
            tokens, confidence = _look(logits_of(canvas if bidirectional else canvas[:stop]), mask)
            nfe += 1
            sure = [i for i in masks if confidence[i] > threshold]
            enough = len(sure) >= num_to_transfer
            chosen = sure if enough else _best(masks, confidence, num_to_transfer)
            edited = [
                i
                for i in range(start, stop)
                if i not in masks and confidence[i] > edit_threshold and tokens[i] != canvas[i]
            ]
            for i in [*chosen, *edited]:
                canvas[i] = tokens[i]
            num_edited += len(edited)
            if not masks and not edited:
                break
        if any(token in ends for token in canvas[len(prompt) : stop]):
            canvas = canvas[:stop]
            break
    return _output(canvas, len(prompt), ends, nfe=nfe, num_edited=num_edited)
