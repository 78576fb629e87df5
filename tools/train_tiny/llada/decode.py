"""LLaDA's published decoding, one token per step, on many prompts of any length at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from tools.train_tiny.llada.model import TinyLLaDA


@torch.inference_mode()
def decode(
    model: TinyLLaDA,
    prompts: Sequence[Sequence[int]],
    mask_id: int,
    eos_id: int,
    max_tokens: int = 64,
    block_length: int = 32,
    batch_size: int = 64,
) -> list[list[int]]:
    """Return the answers' ids, cut before the first EOS.

    Low-confidence remasking: of the masked positions of the active block, each step keeps
    the arg-max token of the one with the highest probability. Blocks after one that holds
    an EOS are skipped, because nothing after the first EOS is part of the answer.
    """
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, prompt in enumerate(prompts):
        by_length[len(prompt)].append(index)
    answers: list[list[int]] = [[] for _ in prompts]
    for length, indices in sorted(by_length.items()):
        for start in range(0, len(indices), batch_size):
            group = indices[start : start + batch_size]
            canvas = torch.full((len(group), length + max_tokens), mask_id)
            canvas[:, :length] = torch.tensor([list(prompts[i]) for i in group])
            canvas = canvas.to(model.wte.weight.device)
            rows = torch.arange(len(group), device=canvas.device)
            for block in range(length, length + max_tokens, block_length):
                rows = rows[~(canvas[rows, length:] == eos_id).any(dim=1)]
                if len(rows):
                    canvas[rows] = _decode_block(model, canvas[rows], block, block_length, mask_id)
            for index, row in zip(group, canvas[:, length:].tolist(), strict=True):
                answers[index] = row[: row.index(eos_id)] if eos_id in row else row
    return answers


def _decode_block(
    model: TinyLLaDA, canvas: Tensor, start: int, block_length: int, mask_id: int
) -> Tensor:
    """Return ``canvas`` [rows, length] with one block filled, one position per step."""
    active = slice(start, start + block_length)
    rows = torch.arange(len(canvas), device=canvas.device)
    for _ in range(block_length):
        logits = model.logits(model.hidden(canvas)[:, active]).float()
        logits[..., mask_id] = -torch.inf
        confidence, candidate = logits.softmax(-1).max(-1)
        best = confidence.masked_fill(canvas[:, active] != mask_id, -1.0).argmax(-1)
        canvas[rows, start + best] = candidate[rows, best]
    return canvas
