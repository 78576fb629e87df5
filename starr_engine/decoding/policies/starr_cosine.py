"""How far a position's distribution points away from those around it: STaRR's cosine deviance."""

from __future__ import annotations

import torch
from torch import Tensor


def cosine_deviance(
    logits: Tensor,
    candidates: Tensor,
    masked: Tensor,
    num_left: Tensor,
    *,
    window: int,
    top_k: int,
) -> Tensor:
    """SD_i = 1 - cos(p_i, mean of p_j over 0 < |i-j| <= window).

    p_j is the softmax over the ``top_k`` largest logits of mask j; where a token stands, all of it
    is at that token. Tokens in front of the block, whose ids are not known here, share nothing
    with p_i and with each other. Masks behind the block do not count. Nothing of size L * V is
    made: distributions are compared on the L * top_k entries that the block has.

    Source:
        STaRR, arXiv 2601.04205, as a published overview of it has it: the cosine, and that the
        distributions are truncated. How tokens count, and k, are this project's.

    Args:
        logits: [n, L, V] float32, read at masks only.
        candidates: [n, L] int64: the token where there is no mask.
        masked: [n, L] bool.
        num_left: [n] int64: tokens in front of the block.
        window: Positions on each side.
        top_k: Entries kept of each distribution, at most V.

    Returns:
        [n, L] float32 in [0, 1]: 0 in line with its neighbours or without any, 1 at odds.
    """
    rows, length, vocab_size = logits.shape
    kept = min(top_k, vocab_size)
    best, ids = logits.topk(kept, dim=-1)
    shares = best.softmax(-1)
    certain = torch.zeros_like(shares)
    certain[..., 0] = 1.0
    shares = torch.where(masked[..., None], shares, certain)
    ids = torch.where(masked[..., None], ids, candidates[..., None])

    # [n, L, U] with one column for each of the block's U <= L * k token ids.
    columns = _columns(ids.flatten(1)).view_as(ids)
    dense = shares.new_zeros((rows, length, length * kept)).scatter_add_(2, columns, shares)
    around = torch.zeros_like(dense)
    front = torch.zeros_like(num_left)[:, None].expand(rows, length).clone()
    index = torch.arange(length, device=logits.device)
    for distance in range(1, window + 1):
        inside = min(distance, length)
        around[:, inside:] += dense[:, : length - inside]
        around[:, : length - inside] += dense[:, inside:]
        front += (index < distance) & (distance - index <= num_left[:, None])
    size = dense.square().sum(-1).sqrt() * (around.square().sum(-1) + front).sqrt()
    cosine = (dense * around).sum(-1) / size
    return torch.where(size > 0, 1.0 - cosine, 0.0).clamp(0.0, 1.0)


def _columns(ids: Tensor) -> Tensor:
    """Number the different ids of each row [n, K] from 0: equal ids, equal numbers."""
    ordered, order = ids.sort(dim=1)
    is_new = torch.zeros_like(ids)
    is_new[:, 1:] = (ordered[:, 1:] != ordered[:, :-1]).to(ids.dtype)
    return torch.empty_like(ids).scatter_(1, order, is_new.cumsum(1))
