"""What a training step shows a block-causal model: every block noisy, and its past clean.

Block diffusion (arXiv 2503.09573) in one forward: the rows are the clean sequence and, after
it, a noisy copy of the canvas. A noisy row attends to the noisy rows of its own block and to
the clean rows of the blocks before it, as a step of decoding does; a clean row attends to the
clean rows of its own and of earlier blocks, as the pass that commits a block does.

    # rows      |<- clean: prompt, answer ->|<- noisy: answer ->|
    # position  0                        last, start          length

Rows that nothing needs are left out: the clean copy of the last block, and the noisy copy of
blocks that are all prompt. Blocks are counted from position 0, so that the first noisy block
may begin with the tail of the prompt, which is shown clean.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tools.train_tiny.data import Batch


@dataclass(frozen=True)
class Layout:
    """Rows of one forward; the same for all sequences of a batch."""

    positions: Tensor
    """int64 [rows]"""
    hidden: Tensor
    """bool [rows, rows]: what a row does not attend to"""
    start: int
    """Position of the first noisy row, a multiple of the block length."""
    last: int
    """Number of clean rows: the position at which the last block starts."""


def lay_out(prompt_len: int, length: int, block_length: int) -> Layout:
    """Return the rows for sequences of ``length`` with a prompt of ``prompt_len``."""
    start = prompt_len // block_length * block_length
    last = (length - 1) // block_length * block_length
    positions = torch.cat((torch.arange(last), torch.arange(start, length)))
    block = positions // block_length
    noisy = torch.arange(len(positions)) >= last
    same, before = block[:, None] == block, block[:, None] > block
    from_noisy = torch.where(noisy, same, before)
    visible = torch.where(noisy[:, None], from_noisy, ~noisy & (same | before))
    return Layout(positions, ~visible, start, last)


def hide_in_blocks(
    batch: Batch, block_length: int, mask_id: int, generator: torch.Generator, chain_share: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Mask every block of a batch on its own.

    A block's maskable positions are hidden with probability t, where t is spread evenly over
    (0, 1) over the blocks of a batch. In a share ``chain_share`` of the blocks that have
    computed numbers, those are hidden from some position on instead, with few of the other
    tokens: the state in which decoding, which puts off what is uncertain, meets them.

    Returns:
        Ids [batch, length]; hidden positions, bool [batch, length]; and the weight of each
        position's loss, float32 [batch, length], importance times 1/t, at most 4.
    """
    size, length = batch.ids.shape
    if batch.whole:
        return batch.ids.masked_fill(batch.maskable, mask_id), batch.maskable, batch.weight
    num_blocks = -(-length // block_length)
    block = torch.arange(length) // block_length
    order = torch.randperm(size * num_blocks, generator=generator).view(size, num_blocks)
    offset = torch.rand(1, generator=generator)
    per_block = ((order / order.numel() + offset) % 1.0).clamp(0.02, 1.0)
    share = per_block[:, block]
    hidden = torch.rand(size, length, generator=generator) < share
    scale = (1.0 / share).clamp(max=4.0)
    if chain_share and batch.chain.any():
        counts = torch.zeros(size, num_blocks, dtype=torch.int64)
        counts.index_add_(1, block, batch.chain.long())
        before = counts.cumsum(dim=1) - counts
        rank = batch.chain.cumsum(dim=1) - before[:, block]  # 1 for a block's first number, ...
        first = (torch.rand(size, num_blocks, generator=generator) * counts)[:, block]
        chosen = torch.rand(size, num_blocks, generator=generator) < chain_share
        chosen = (chosen & (counts > 0))[:, block]
        others = torch.rand(size, length, generator=generator) < 0.4 * share**2
        hidden = torch.where(chosen, (batch.chain & (rank > first)) | others, hidden)
        scale = torch.where(chosen, 1.5, scale)
    hidden &= batch.maskable
    return batch.ids.masked_fill(hidden, mask_id), hidden, batch.weight * scale
