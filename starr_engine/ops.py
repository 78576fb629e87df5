"""Typed front of the compiled tensor ops; the only module that touches ``torch.ops``.

Each op has one name and two implementations, chosen by the device of its arguments: plain
loops in ``csrc/ops/cpu`` and kernels in ``csrc/ops/cuda``. What they compute, in PyTorch, is in
``starr_engine.ops_reference``.

Letters: ``T`` tokens, ``S`` slots asked for, ``P`` pages, ``G`` page size, ``K`` KV heads,
``D`` head size, ``M`` rows of logits, ``V`` vocabulary, ``n`` running requests, ``L`` block length.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from starr_engine.errors import KernelError
from starr_engine.starr_types import StarrDecision, StarrRule, StarrScores, StarrState

_LIBRARY: Final = Path(__file__).with_name("_ops.so")
_NUM_STATISTICS: Final = 4  # float32 vectors beside the candidate
_NUM_SIGNALS: Final = 4  # threshold, variance, deviance, stability


def _load(library: Path) -> None:
    if not library.exists():
        raise KernelError(
            f"the compiled ops are not built: {library} does not exist; run `make build` "
            "(or `pip install .`) in the source folder"
        )
    try:
        torch.ops.load_library(library)  # type: ignore[no-untyped-call]
    except OSError as error:
        raise KernelError(
            f"the compiled ops do not load with torch {torch.__version__} (they need torch >= "
            f"2.11): {error}; run `make clean build` in the source folder"
        ) from error


_load(_LIBRARY)
_OPS: Final = torch.ops.starr_engine


class LogitsStatistics(NamedTuple):
    """What the remasking policies need to know of each row of logits, all [M]."""

    candidate: Tensor
    """int64: index of the largest logit, the lowest one on a tie."""
    top1: Tensor
    """float32: probability of the candidate."""
    top2: Tensor
    """float32: second largest probability; equal to ``top1`` on a tie."""
    entropy: Tensor
    """float32: entropy of the distribution in nats."""
    log_normalizer: Tensor
    """float32: log of the sum of exp(logit), so that log p = logit - log_normalizer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildInfo:
    """Which compiled parts this process uses."""

    library: Path
    """The extension that was loaded."""
    has_cuda_kernels: bool
    """Whether it was compiled with CUDA; a GPU may still be absent."""
    torch_version: str
    """The torch that is running, which need not be the one of the build."""
    torch_cuda_version: str | None
    """The CUDA version of that torch; None for a CPU build."""
    cpu_capability: str
    """The vector instructions torch found on this machine."""


def build_info() -> BuildInfo:
    """Say which compiled parts are present, for ``starr-engine info`` and bug reports."""
    return BuildInfo(
        library=_LIBRARY,
        has_cuda_kernels=torch._C._dispatch_has_kernel_for_dispatch_key(
            "starr_engine::store_kv", "CUDA"
        ),
        torch_version=torch.__version__,
        torch_cuda_version=torch.version.cuda,
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
    )


def store_kv(
    key: Tensor, value: Tensor, k_cache: Tensor, v_cache: Tensor, slot_mapping: Tensor
) -> None:
    """Write one row of keys and values per token into the paged cache.

    Args:
        key: [T, K, D], the cache's dtype and device. The last two dimensions are contiguous;
            rows may lie apart, so that a view of a fused projection needs no copy.
        value: [T, K, D], likewise.
        k_cache: [P, G, K, D], contiguous. Written to.
        v_cache: [P, G, K, D], contiguous. Written to. Does not overlap ``k_cache``.
        slot_mapping: [T] int64, page * G + offset; a negative slot is not written. Two equal
            slots in one call leave either row.

    Raises:
        RuntimeError: Shapes, dtypes or devices do not agree or, on the CPU, a slot is outside
            the cache; nothing is written then. On CUDA the values of ``slot_mapping`` are not
            checked: the plan that made them was.
    """
    _OPS.store_kv.default(key, value, k_cache, v_cache, slot_mapping)


def gather_kv(k_cache: Tensor, v_cache: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
    """Read rows of the paged cache into dense tensors.

    Args:
        k_cache: [P, G, K, D], contiguous.
        v_cache: [P, G, K, D], contiguous, of the same dtype.
        slots: [S] int64, page * G + offset, each inside the cache.

    Returns:
        Keys and values, each [S, K, D], new and contiguous.

    Raises:
        RuntimeError: Shapes, dtypes or devices do not agree or, on the CPU, a slot is outside
            the cache. On CUDA the values of ``slots`` are not checked.
    """
    key, value = _OPS.gather_kv.default(k_cache, v_cache, slots)
    return key, value


def logits_statistics(logits: Tensor, forbidden_token: int = -1) -> LogitsStatistics:
    """Candidate, its probability, the runner-up's, entropy and log normaliser of each row.

    One pass over the vocabulary with an online softmax: the largest logit m and the sums of
    e^(x - m) and (x - m) e^(x - m) are corrected whenever m grows, after Milakov and Gimelshein
    2018 (arXiv 1805.02867), extended here by the second sum, which gives the entropy
    H = log S - W / S, and by the second largest logit. No [M, V] temporary is made.

    Sums are float64 on the CPU and float32 on CUDA. A NaN or +inf among the allowed logits, or
    no finite one, leaves no distribution: all four numbers of that row are NaN, and the
    candidate is the lowest index of a NaN, else of the largest allowed logit. Logits of -inf
    beside finite ones have probability 0.

    Args:
        logits: [M, V] float32 or bfloat16; each row is contiguous, rows may lie apart.
        forbidden_token: Vocabulary index left out as if its logit were -inf, which a model's
            mask token must be; -1 for none.

    Returns:
        Five vectors [M] on the device of ``logits``.

    Raises:
        RuntimeError: A shape, dtype, stride or ``forbidden_token`` that is not as above.
    """
    return LogitsStatistics(*_OPS.logits_statistics.default(logits, forbidden_token))


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
    """The STaRR decision for blocks whose scores are there: history, thresholds, what to unmask.

    What is computed is in ``decoding.policies.starr``. The quantile is that of
    ``torch.nanquantile`` with linear interpolation. Nothing that is given is changed.

    Args:
        candidates: [n, L] int64: proposed token at a mask, present token elsewhere.
        confidence: [n, L] float32: their probabilities. What has none (NaN) is not unmasked.
        masked: [n, L] bool.
        num_left: [n] int64: settled tokens in front of each block.
        state: After the last step, or of new blocks.
        rule: The policy's arguments.
        signal: [n, L] float32: what enters the windows; ``confidence`` if None.
        deviance: [n, L] float32: how far each position is at odds with its neighbours, 0 for not
            at all; if None it follows from the confidences.

    Raises:
        RuntimeError: Shapes, dtypes or devices do not agree, a tensor is not contiguous, or the
            quantile or sigma is out of range.
    """
    unmask, revoke, *rest = _OPS.starr_decide.default(
        candidates, confidence, signal, deviance, masked, num_left, *state, _numbers(rule)
    )
    return _starr_decision(candidates, unmask, revoke, rest)


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
) -> tuple[StarrScores, StarrDecision]:
    """A whole STaRR step at temperature 0: logits to scores to decision.

    ``logits_statistics`` and ``starr_decide`` in one op: every scored row is read once, and
    nothing of the size of the logits is made. Positions without a row of logits get the scores of
    a token that nobody doubts (``decoding.base.BlockView``). On the CPU one loop over the scored
    positions and one over the requests; on CUDA two kernels, since the decision for a position
    needs the scores of its whole block: the launch between them costs microseconds, against the
    milliseconds in which the first one reads the logits.

    Args:
        logits: [M, V] float32 or bfloat16; each row is contiguous, rows may lie apart.
        forbidden_token: The model's mask token, which is never a candidate; -1 for none.
        row_of: [n, L] int64: row of the logits, -1 where not scored; every mask is scored.
        present: [n, L] int64: the token that stands there, anything at a mask.
        masked: [n, L] bool.
        num_left: [n] int64: settled tokens in front of each block.
        state: After the last step, or of new blocks.
        rule: The policy's arguments.
        logit_signal: Whether the candidate's logit enters the windows, not its probability.

    Raises:
        RuntimeError: As ``starr_decide``, or the logits are not as above or, on the CPU, ``row_of``
            or ``present`` points outside them. On CUDA their values are not checked.
    """
    results = _OPS.starr_step.default(
        logits, forbidden_token, row_of, present, masked, num_left, *state, _numbers(rule),
        logit_signal,
    )  # fmt: skip
    scores = StarrScores(*results[: len(StarrScores._fields)])
    unmask, revoke, *rest = results[len(scores) :]
    return scores, _starr_decision(scores.candidates, unmask, revoke, rest)


def _numbers(rule: StarrRule) -> list[float]:
    return [float(number) for number in rule]


def _starr_decision(
    candidates: Tensor, unmask: Tensor, revoke: Tensor, rest: list[Tensor]
) -> StarrDecision:
    ring, seen, run, revoked, *signals = rest
    state = StarrState(ring=ring, seen=seen, run=run, candidate=candidates, revoked=revoked)
    return StarrDecision(unmask, revoke, state, *signals)


def _store_kv_fake(
    key: Tensor, value: Tensor, k_cache: Tensor, v_cache: Tensor, slot_mapping: Tensor
) -> None:
    return None


def _gather_kv_fake(k_cache: Tensor, v_cache: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
    shape = (slots.shape[0], *k_cache.shape[2:])
    return k_cache.new_empty(shape), v_cache.new_empty(shape)


def _logits_statistics_fake(
    logits: Tensor, forbidden_token: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    rows = (logits.shape[0],)
    top1, top2, entropy, log_normalizer = (
        logits.new_empty(rows, dtype=torch.float32) for _ in range(_NUM_STATISTICS)
    )
    return logits.new_empty(rows, dtype=torch.int64), top1, top2, entropy, log_normalizer


def _starr_decide_fake(
    candidates: Tensor,
    confidence: Tensor,
    signal: Tensor | None,
    deviance: Tensor | None,
    masked: Tensor,
    num_left: Tensor,
    ring: Tensor,
    *rest: Any,
) -> tuple[Tensor, ...]:
    dtypes = (torch.bool, torch.bool, None, torch.int64, torch.int64, torch.bool)
    return (
        *(torch.empty_like(ring if d is None else candidates, dtype=d) for d in dtypes),
        *(torch.empty_like(candidates, dtype=torch.float32) for _ in range(_NUM_SIGNALS)),
    )


def _starr_step_fake(
    logits: Tensor,
    forbidden_token: int,
    row_of: Tensor,
    present: Tensor,
    masked: Tensor,
    num_left: Tensor,
    ring: Tensor,
    *rest: Any,
) -> tuple[Tensor, ...]:
    scores = [torch.empty_like(row_of, dtype=torch.float32) for _ in StarrScores._fields[1:]]
    decision = _starr_decide_fake(row_of, row_of, None, None, masked, num_left, ring)
    return (torch.empty_like(row_of), *scores, *decision)


torch.library.register_fake("starr_engine::store_kv", _store_kv_fake)
torch.library.register_fake("starr_engine::gather_kv", _gather_kv_fake)
torch.library.register_fake("starr_engine::logits_statistics", _logits_statistics_fake)
torch.library.register_fake("starr_engine::starr_decide", _starr_decide_fake)
torch.library.register_fake("starr_engine::starr_step", _starr_step_fake)
