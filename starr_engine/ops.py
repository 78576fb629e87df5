"""Typed front of the compiled tensor ops; the only module that touches ``torch.ops``.

Each op has one name and two implementations, chosen by the device of its arguments: plain
loops in ``csrc/ops/cpu`` and kernels in ``csrc/ops/cuda``. What they compute, in PyTorch, is in
``starr_engine.ops_reference``.

Letters: ``T`` tokens, ``S`` slots asked for, ``P`` pages, ``G`` page size, ``K`` KV heads,
``D`` head size, ``F`` features, ``R`` segments, ``M`` rows of logits, ``V`` vocabulary, ``n``
running requests, ``L`` block length.

Page numbers and counts are sequences of ints: the host decides on them, so that they are checked
and the size of every result is known without waiting for a device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import torch
from torch import Tensor

from starr_engine import ops_fakes
from starr_engine.errors import KernelError
from starr_engine.starr_types import StarrDecision, StarrRule, StarrScores, StarrState

_LIBRARY: Final = Path(__file__).with_name("_ops.so")


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


def store_rows(rows: Tensor, pages: Tensor, slots: Tensor) -> None:
    """Write one row of features per token into pages: ``store_kv`` for a single tensor.

    Keys or values alone are stored through views: ``store_rows(key.flatten(1),
    k_cache.flatten(2), slots)``.

    Args:
        rows: [T, F], the pages' dtype and device. Each row is contiguous; rows may lie apart.
        pages: [P, G, F], contiguous, of any dtype. Written to.
        slots: [T] int64, page * G + offset; a negative slot is not written. Two equal slots in
            one call leave either row.

    Raises:
        RuntimeError: As ``store_kv``.
    """
    _OPS.store_rows.default(rows, pages, slots)


def gather_rows(pages: Tensor, slots: Tensor) -> Tensor:
    """Read rows of features out of pages: ``gather_kv`` for a single tensor.

    Args:
        pages: [P, G, F], contiguous, of any dtype.
        slots: [S] int64, page * G + offset, each inside the pages.

    Returns:
        [S, F], new and contiguous.

    Raises:
        RuntimeError: As ``gather_kv``.
    """
    rows: Tensor = _OPS.gather_rows.default(pages, slots)
    return rows


def copy_pages(pages: Tensor, source: Sequence[int], target: Sequence[int]) -> None:
    """Copy whole pages, keys and values of all layers, as copy on write needs it.

    Args:
        pages: [layer, 2, P, G, K, D], contiguous, of any dtype. Written to. The first two sizes
            may be anything: other features that lie in pages are viewed likewise.
        source: Page numbers, on the host. A page may be copied to several targets.
        target: As many page numbers, all different and none of them in ``source``, so that the
            order of the copies does not matter.

    Raises:
        RuntimeError: A shape or a page number is not as above; nothing is copied then.
    """
    _OPS.copy_pages.default(pages, [int(page) for page in source], [int(page) for page in target])


def row_similarity(rows: Tensor, cache: Tensor, slots: Tensor) -> Tensor:
    """Cosine similarity of each row with the row that is cached at its slot, over all heads.

    How far keys or values have moved since they were cached, which dLLM-Cache (arXiv 2506.06295)
    asks of the values. Sums are float32. Equal rows give exactly 1, two rows of zeros 1, a row of
    zeros and another one 0. A NaN in either row, or a sum of squares beyond float32, gives NaN.

    Args:
        rows: [T, K, D], the cache's dtype and device. The last two dimensions are contiguous;
            rows may lie apart.
        cache: [P, G, K, D] float32, bfloat16 or float16, contiguous: keys or values.
        slots: [T] int64, page * G + offset; negative for a row that is not kept, as in
            ``store_kv``. It has nothing to differ from and gives 1: whoever needs a row that was
            never cached has to ask for it by other means.

    Returns:
        [T] float32, in [-1, 1] or NaN.

    Raises:
        RuntimeError: Shapes, dtypes or devices do not agree or, on the CPU, a slot is outside the
            cache. On CUDA the values of ``slots`` are not checked.
    """
    similarity: Tensor = _OPS.row_similarity.default(rows, cache, slots)
    return similarity


def select_lowest(values: Tensor, cu_rows: Sequence[int], counts: Sequence[int]) -> Tensor:
    """Indices of the ``counts[r]`` smallest values of each segment, in ascending order.

    The selection of dLLM-Cache (arXiv 2506.06295): of each request, the rows whose values
    moved most. There ties are left to ``topk``; here the lower index goes first, and a NaN counts
    as smaller than all numbers, since nothing is known of such a row.

    Args:
        values: [T] float32, contiguous.
        cu_rows: R + 1 ints, on the host, from 0 to T, not decreasing: segment r is
            ``values[cu_rows[r]:cu_rows[r + 1]]``.
        counts: R ints, on the host, each from 0 to the length of its segment.

    Returns:
        [sum of counts] int64: indices into ``values``, the segments one after the other.

    Raises:
        RuntimeError: A shape, dtype, bound or count is not as above.
    """
    selected: Tensor = _OPS.select_lowest.default(
        values, [int(bound) for bound in cu_rows], [int(count) for count in counts]
    )
    return selected


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


NUM_DRAW_OPTIONS: Final = 4
"""Of a draw: temperature, top_p, top_k, min_p; see ``gumbel_argmax``."""


def gumbel_argmax(
    logits: Tensor, rows: Tensor, keys: Tensor, options: Tensor, forbidden_token: int = -1
) -> Tensor:
    """Tokens drawn from rows of logits: the largest of logit + temperature * Gumbel noise.

    The Gumbel-max trick (Gumbel 1954; Maddison and others, arXiv 1411.0030) in float64. The noise
    of a token is ``ops_reference.gumbel`` of the row's key, the same on every device. Without
    truncation one pass over each row, in which logarithms are taken only of what may still win; no
    [D, V] temporary is made, and nothing is sorted.

    ``min_p`` (arXiv 2407.01082) keeps tokens at least so many times as probable as the best,
    ``top_k`` the k best and those equal to the last of them, ``top_p`` of what is left the most
    probable ones, lowest id first among equals, until they hold so much of its mass; at least one
    is kept. ``ops_reference.truncate`` says the same in PyTorch. What is drawn outside of the
    nucleus of ``top_p`` is cut off with all that is no more probable, and the row drawn again: the
    tokens of the nucleus keep their noise, so that the result is that of drawing from it alone.

    Args:
        logits: [M, V] float32 or bfloat16; each row is contiguous, rows may lie apart.
        rows: [D] int64, of each draw.
        keys: [D] int64: what a draw's noise is hashed from.
        options: [D, 4] float64: temperature, at least 0, and above 0 with truncation; top_p, 1 for
            all; top_k, 0 for all; min_p, 0 for all.
        forbidden_token: Never drawn; -1 for none.

    Returns:
        [D] int64: of equals the lowest index. Logits of -inf and NaN are not drawn, and 0 is
        returned where there is nothing else.

    Raises:
        RuntimeError: A shape, dtype or stride is not as above or, on the CPU, one of ``rows`` is
            not one of the logits.
    """
    tokens: Tensor = _OPS.gumbel_argmax.default(logits, forbidden_token, rows, keys, options)
    return tokens


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


ops_fakes.register()
