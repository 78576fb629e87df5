"""What the compiled ops compute, in PyTorch: the slow twins that the tests compare them with.

Same names, arguments and results as ``starr_engine.ops``, on any device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from starr_engine.splitmix import WEYL, mix, shift_right
from starr_engine.starr_types import StarrDecision, StarrRule, StarrScores, StarrState

_UNIFORM_BITS: Final = 52


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


def store_rows(rows: Tensor, pages: Tensor, slots: Tensor) -> None:
    """Write ``rows`` [T, F] to the slots [T] of the pages [P, G, F]."""
    is_written = slots >= 0
    pages.flatten(0, 1)[slots[is_written]] = rows[is_written]


def gather_rows(pages: Tensor, slots: Tensor) -> Tensor:
    """Read the slots [S] of the pages [P, G, F] into [S, F]."""
    return pages.flatten(0, 1)[slots]


def copy_pages(pages: Tensor, source: Sequence[int], target: Sequence[int]) -> None:
    """Copy pages of ``pages`` [layer, 2, P, G, K, D]."""
    for old, new in zip(source, target, strict=True):
        pages[:, :, new] = pages[:, :, old]


def row_similarity(
    rows: Tensor, cache: Tensor, slots: Tensor, *, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Cosines [T] of ``rows`` [T, K, D] with the slots [T] of ``cache``, computed in ``dtype``."""
    fresh = rows.to(dtype).flatten(1)
    cached = cache.flatten(0, 1)[slots.clamp_min(0)].to(dtype).flatten(1)
    fresh_norm, cached_norm = fresh.square().sum(-1).sqrt(), cached.square().sum(-1).sqrt()
    cosine = ((fresh * cached).sum(-1) / (fresh_norm * cached_norm)).clamp(-1, 1)
    has_nan = fresh_norm.isnan() | cached_norm.isnan()
    is_zero = ~has_nan & ((fresh_norm == 0) | (cached_norm == 0))
    cosine = torch.where(is_zero, (fresh_norm == cached_norm).to(dtype), cosine)
    return torch.where(slots < 0, 1.0, cosine)


def select_lowest(values: Tensor, cu_rows: Sequence[int], counts: Sequence[int]) -> Tensor:
    """Indices of the ``counts`` smallest of each segment of ``values`` [T], NaN first."""
    selected = [torch.empty(0, dtype=torch.int64, device=values.device)]
    for start, stop, count in zip(cu_rows[:-1], cu_rows[1:], counts, strict=True):
        segment = values[start:stop]
        order = segment.argsort(stable=True)  # numbers in order, NaN behind them
        order = torch.cat([segment.isnan().nonzero()[:, 0], order[~segment[order].isnan()]])
        selected.append(start + order[:count].sort().values)
    return torch.cat(selected)


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


def gumbel(keys: Tensor, vocab_size: int) -> Tensor:
    """Gumbel noise -log(-log u) of every token, u from SplitMix64.

    Args:
        keys: [D] int64, the generator's states.
        vocab_size: V.

    Returns:
        [D, V] float64; token v has output number v.
    """
    steps = torch.arange(1, vocab_size + 1, device=keys.device) * WEYL
    bits = mix(keys[:, None] + steps)
    uniform = (shift_right(bits, 64 - _UNIFORM_BITS).double() + 0.5) * 2.0**-_UNIFORM_BITS
    return -torch.log(-torch.log(uniform))


def truncate(logits: Tensor, temperature: float, top_p: float, top_k: int, min_p: float) -> Tensor:
    """-inf for what may not be drawn by softmax(logits / temperature); [m, V] float64.

    In vLLM's order: min-p (arXiv 2407.01082) keeps tokens at least ``min_p`` times as probable as
    the best; top-k keeps the k best and those equal to the last of them; top-p keeps the most
    probable of what is left, lowest id first among equals, until they hold ``top_p`` of its mass.
    At least one token is always kept.
    """
    if min_p > 0:
        floor = logits.amax(-1, keepdim=True) + temperature * math.log(min_p)
        logits = logits.masked_fill(logits < floor, -torch.inf)
    if 0 < top_k < logits.shape[-1]:
        last = logits.topk(top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < last, -torch.inf)
    if top_p < 1:
        probabilities = (logits / temperature).softmax(-1)
        ordered, ids = probabilities.sort(dim=-1, descending=True, stable=True)
        # The mass in front of a token, without its own: the first always stays.
        is_behind = ordered.cumsum(-1) - ordered >= top_p
        logits = logits.masked_fill(is_behind.scatter(1, ids, is_behind), -torch.inf)
    return logits


def gumbel_argmax(
    logits: Tensor, rows: Tensor, keys: Tensor, options: Tensor, forbidden_token: int = -1
) -> Tensor:
    """Tokens [D] drawn from ``rows`` [D] of ``logits`` [M, V], as the noise of ``keys`` [D] has it.

    ``options`` [D, 4] float64 are temperature, top_p, top_k and min_p.
    """
    allowed = logits[rows].double()
    if forbidden_token >= 0:
        allowed[:, forbidden_token] = -torch.inf
    allowed = allowed.masked_fill(allowed.isnan(), -torch.inf)
    for n, (temperature, top_p, top_k, min_p) in enumerate(options.tolist()):
        allowed[n] = truncate(allowed[n : n + 1], temperature, top_p, int(top_k), min_p)[0]
    return (allowed + options[:, :1] * gumbel(keys, logits.shape[1])).argmax(-1)


def starr_step(
    logits: Tensor,
    forbidden_token: int,
    row_of: Tensor,
    present: Tensor,
    masked: Tensor,
    num_left: Tensor,
    state: StarrState,
    rule: StarrRule,
    *,
    logit_signal: bool = False,
    dtype: torch.dtype = torch.float64,
) -> tuple[StarrScores, StarrDecision]:
    """Scores of the blocks [n, L] from ``logits`` [M, V], computed in ``dtype``, and the decision.

    As ``ops.starr_step``, with the ``dtype`` of ``logits_statistics``.
    """
    best, top1, top2, entropy, log_normalizer = logits_statistics(
        logits, forbidden_token, dtype=dtype
    )
    scored = row_of >= 0
    rows = row_of[scored]
    chosen = torch.where(masked[scored], best[rows], present[scored])
    logit = logits[rows, chosen]
    confidence = torch.exp(logit.to(dtype) - log_normalizer[rows])
    confidence = torch.where(chosen == best[rows], top1[rows], confidence)

    def spread(values: Tensor, fill: float) -> Tensor:
        grid = torch.full(row_of.shape, fill, device=row_of.device)
        grid[scored] = values.float()
        return grid

    candidates = present.clone()
    candidates[scored] = chosen
    scores = StarrScores(
        candidates=candidates,
        confidence=spread(confidence, 1.0),
        logit=spread(logit, 0.0),
        top1=spread(top1[rows], 1.0),
        top2=spread(top2[rows], 0.0),
        entropy=spread(entropy[rows], 0.0),
    )
    signal = scores.logit if logit_signal else None
    return scores, starr_decide(
        candidates, scores.confidence, masked, num_left, state, rule, signal=signal
    )


def starr_decide(
    candidates: Tensor,
    confidence: Tensor,
    masked: Tensor,
    num_left: Tensor,
    state: StarrState,
    rule: StarrRule,
    *,
    signal: Tensor | None = None,
    deviance: Tensor | None = None,
) -> StarrDecision:
    """The rule of ``decoding.policies.starr`` for blocks [n, L]."""
    state = _observe(candidates, confidence if signal is None else signal, state, rule)
    variance, stability = _stability(state, rule.sigma)
    settled = torch.where(masked, confidence, 1.0)
    support = neighbourhood(settled, num_left, rule.neighbour_window)
    if deviance is None:
        deviance = torch.where(support.isnan(), 0.0, confidence - support)
        odds = -deviance
    else:
        odds = deviance
    support = support.nan_to_num(nan=0.0)

    ranked = confidence.masked_fill(~masked, torch.nan)
    quantile = torch.nanquantile(ranked, rule.quantile, dim=1)
    quantile = quantile.nan_to_num(nan=rule.tau_max).clamp(rule.tau_min, rule.tau_max)
    threshold = quantile[:, None] - rule.alpha * stability
    threshold = threshold - rule.beta * (support - rule.support).clamp_min(0.0)
    threshold = threshold + rule.gamma * odds.clamp_min(0.0) * (1.0 - stability)
    threshold = threshold.clamp(rule.c_slow, rule.c_fast)
    if rule.patience >= 0:
        overdue = (state.run - rule.patience).clamp_min(0)
        threshold = (threshold - rule.relax * overdue).clamp_min(rule.c_slow)

    revoke = ~masked & ~state.revoked & (confidence < rule.revoke_below)
    state = state._replace(
        revoked=state.revoked | revoke,
        seen=state.seen.masked_fill(revoke, 0),
        run=state.run.masked_fill(revoke, 0),
    )
    unmask = masked & (confidence >= threshold)
    return StarrDecision(unmask, revoke, state, threshold, variance, deviance, stability)


def neighbourhood(settled: Tensor, num_left: Tensor, window: int) -> Tensor:
    """Mean of ``settled`` [n, L] within ``window`` positions on each side, without the position.

    The ``num_left`` [n] tokens in front of a block count as 1, what lies behind it not at all.

    Returns:
        [n, L] float32; NaN where a position has no neighbour.
    """
    length = settled.shape[1]
    index = torch.arange(length, device=settled.device)
    total = torch.zeros_like(settled)
    count = torch.zeros_like(settled)
    for distance in range(1, window + 1):
        inside = min(distance, length)
        total[:, inside:] += settled[:, : length - inside]
        total[:, : length - inside] += settled[:, inside:]
        before = (index < distance) & (distance - index <= num_left[:, None])
        total += before
        count += before
        count[:, inside:] += 1
        count[:, : length - inside] += 1
    return total / count


def _observe(candidates: Tensor, signal: Tensor, state: StarrState, rule: StarrRule) -> StarrState:
    same = candidates == state.candidate
    seen = torch.where(same, state.seen, 0) if rule.restart_on_flip else state.seen
    slot = (seen % state.ring.shape[2])[..., None]
    return StarrState(
        ring=state.ring.scatter(2, slot, signal[..., None]),
        seen=seen + 1,
        run=torch.where(same, state.run, 0) + 1,
        candidate=candidates,
        revoked=state.revoked,
    )


def _stability(state: StarrState, sigma: float) -> tuple[Tensor, Tensor]:
    # The window is filled from its start after each restart, so its first entries count.
    window = state.ring.shape[2]
    length = state.seen.clamp_max(window)
    counts = torch.arange(window, device=length.device) < length[..., None]
    mean = torch.where(counts, state.ring, 0.0).sum(-1) / length
    square = torch.where(counts, state.ring - mean[..., None], 0.0).square().sum(-1) / length
    variance = square.sqrt()
    stability = torch.exp(-variance / sigma) * (length / window)
    return variance, torch.where(length >= 2, stability, 0.0)
