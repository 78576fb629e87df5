"""Block-causal decoding, one token per step, with a cache of finished blocks, in batches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from tools.train_tiny.sdar.model import KeyValue, TinySDAR
from tools.train_tiny.sdar.schedule import BLOCK_LENGTH


@torch.inference_mode()
def decode(
    model: TinySDAR,
    prompts: Sequence[Sequence[int]],
    mask_id: int,
    eos_id: int,
    block_length: int = BLOCK_LENGTH,
    max_tokens: int = 64,
    batch_size: int = 128,
) -> list[list[int]]:
    """Return the answers' ids, cut before the first EOS.

    Low-confidence remasking as for LLaDA, block by block; blocks are counted from position 0,
    so that prompts are decoded together whose last token, or first answer, falls into the
    same block. Blocks after one that holds an EOS are skipped.
    """
    by_start: dict[int, list[int]] = defaultdict(list)
    for index, prompt in enumerate(prompts):
        by_start[len(prompt) // block_length * block_length].append(index)
    answers: list[list[int]] = [[] for _ in prompts]
    for start, indices in sorted(by_start.items()):
        for first in range(0, len(indices), batch_size):
            group = indices[first : first + batch_size]
            found = _decode_group(
                model, [prompts[i] for i in group], mask_id, eos_id, start, block_length, max_tokens
            )
            for index, answer in zip(group, found, strict=True):
                answers[index] = answer[: answer.index(eos_id)] if eos_id in answer else answer
    return answers


def _decode_group(
    model: TinySDAR,
    prompts: list[Sequence[int]],
    mask_id: int,
    eos_id: int,
    start: int,
    block_length: int,
    max_tokens: int,
) -> list[list[int]]:
    """Decode prompts that all end in the block at ``start``, or right before it."""
    device = model.model.embed_tokens.weight.device
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    total = int(lengths.max()) + max_tokens
    total += -total % block_length
    canvas = torch.full((len(prompts), total), mask_id, device=device)
    for row, prompt in enumerate(prompts):
        canvas[row, : len(prompt)] = torch.tensor(prompt)
    positions = torch.arange(total, device=device)
    answer = positions >= lengths[:, None]
    exists = positions < lengths[:, None] + max_tokens
    rows = torch.arange(len(prompts), device=device)
    past: list[KeyValue] = []
    for block in range(0, total, block_length):
        active = slice(block, block + block_length)
        if block >= start:
            ended = (answer[rows] & (canvas[rows] == eos_id)).any(dim=1)
            keep = ~ended & exists[rows, block]
            rows, past = rows[keep], [(key[keep], value[keep]) for key, value in past]
            if not len(rows):
                break
            hidden = None
            if not exists[rows, active].all():  # the last block may be shorter
                before = torch.zeros(len(rows), block, dtype=torch.bool, device=device)
                hidden = torch.cat((before, ~exists[rows, active]), dim=1)[:, None, None]
            ids = canvas[rows, active]
            ids = _fill(model, ids, positions[active], hidden, past, exists[rows, active], mask_id)
            canvas[rows, active] = ids
        past = model.states(canvas[rows, active], positions[active], None, past)[1]
    answers = canvas.tolist()
    return [
        row[len(prompt) : len(prompt) + max_tokens]
        for row, prompt in zip(answers, prompts, strict=True)
    ]


def _fill(
    model: TinySDAR,
    ids: Tensor,
    positions: Tensor,
    hidden: Tensor | None,
    past: list[KeyValue],
    exists: Tensor,
    mask_id: int,
) -> Tensor:
    """Return ``ids`` [rows, block] with every mask that exists replaced, one per step."""
    rows = torch.arange(len(ids), device=ids.device)
    while True:
        masked = (ids == mask_id) & exists
        if not masked.any():
            return ids
        logits = model.logits(model.states(ids, positions, hidden, past)[0]).float()
        logits[..., mask_id] = -torch.inf
        confidence, candidate = logits.softmax(-1).max(-1)
        best = confidence.masked_fill(~masked, -1.0).argmax(-1)
        left = masked[rows, best]
        ids = ids.clone()
        ids[rows[left], best[left]] = candidate[rows[left], best[left]]
