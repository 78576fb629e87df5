"""What the compiled ops compute, in PyTorch: the slow twins that the tests compare them with.

Same names, arguments and results as ``starr_engine.ops``, on any device.
"""

from __future__ import annotations

import torch
from torch import Tensor


def store_kv(
    key: Tensor, value: Tensor, k_cache: Tensor, v_cache: Tensor, slot_mapping: Tensor
) -> None:
    """Write ``key`` and ``value`` [T, K, D] to the slots [T] of the caches [P, G, K, D]."""
    is_written = slot_mapping >= 0
    slots = slot_mapping[is_written]
    k_cache.flatten(0, 1)[slots] = key[is_written]
    v_cache.flatten(0, 1)[slots] = value[is_written]


def gather_kv(k_cache: Tensor, v_cache: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
    """Read the slots [S] of the caches [P, G, K, D] into keys and values [S, K, D]."""
    return k_cache.flatten(0, 1)[slots], v_cache.flatten(0, 1)[slots]


def logits_statistics(
    logits: Tensor, forbidden_token: int = -1, *, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Statistics of each row of ``logits`` [M, V], computed in ``dtype``.

    Args:
        logits: [M, V], any float dtype.
        forbidden_token: Vocabulary index left out; -1 for none.
        dtype: Precision of the computation: float64 for the truth, the dtype of the logits for
            the error that plain PyTorch makes.

    Returns:
        Candidate int64, and top-1 and top-2 probability, entropy and log normaliser in
        ``dtype``, all [M].
    """
    x = logits.to(dtype, copy=True)
    if forbidden_token >= 0:
        x[:, forbidden_token] = -torch.inf
    # torch.max gives the index of some largest value; NaN counts as the largest.
    largest = x.max(dim=-1, keepdim=True).values
    is_largest = (x == largest) | x.isnan()
    if forbidden_token >= 0:
        is_largest[:, forbidden_token] = False
    candidate = is_largest.int().argmax(dim=-1)  # of equal values, the first

    shifted = x - largest  # NaN throughout where the largest is infinite or NaN
    weights = shifted.exp()
    total = weights.sum(dim=-1, keepdim=True)
    probabilities = weights / total
    entropy = -torch.xlogy(probabilities, probabilities).sum(dim=-1)
    log_normalizer = (largest + total.log()).squeeze(-1)
    top = probabilities.topk(min(2, x.shape[-1]), dim=-1).values
    top2 = top[:, 1] if x.shape[-1] > 1 else top[:, 0] * 0
    return candidate, top[:, 0], top2, entropy, log_normalizer
