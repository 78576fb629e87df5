"""The ops, on the sizes of real models, beside the PyTorch calls each one replaces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle

import torch
from torch import Tensor

from starr_engine import ops
from starr_engine.splitmix import WEYL, mix

LLADA_VOCABULARY = 126_464
LOGITS = ((32, LLADA_VOCABULARY), (512, LLADA_VOCABULARY), (32, 2_048), (512, 2_048))
# A baseline holds the logits, their probabilities and a product of the two, in float32 at most.
BYTES_PER_LOGIT = 12
# The logits, and noise and their sum in float64.
BYTES_PER_DRAWN_LOGIT = 32
# KV heads of 128 numbers in LLaDA-8B, whose features are as wide, and in Qwen3-8B.
HEADS = (32, 8)
HEAD_DIM, PAGE_SIZE = 128, 16
ROWS = 512
SEGMENTS = ((16, 256), (16, 1_024), (64, 256))
KEPT_SHARE = 4  # dLLM-Cache recomputes a quarter of the rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One op on one size."""

    op: str
    shape: str
    dtype: torch.dtype
    bytes_needed: int
    make: Callable[[], dict[str, Callable[[], object]]]
    """Makes the inputs, and the calls to time by the name of their implementation."""


def all_cases(device: torch.device) -> Iterator[Case]:
    """Every op, size and dtype."""
    for dtype in (torch.float32, torch.bfloat16):
        for rows, vocabulary in LOGITS:
            yield _logits(device, dtype, rows, vocabulary)
            yield _draws(device, dtype, rows, vocabulary)
        for heads in HEADS:
            yield from _pages(device, dtype, heads)
    for segments, length in SEGMENTS:
        yield _segments(device, segments, length)


def _softmax_top2(logits: Tensor) -> object:
    return torch.softmax(logits, -1).topk(2, -1)


def _softmax_top2_entropy(logits: Tensor) -> object:
    log_probabilities = torch.log_softmax(logits, -1)
    probabilities = log_probabilities.exp()
    return probabilities.topk(2, -1), -(probabilities * log_probabilities).sum(-1)


def _logits(device: torch.device, dtype: torch.dtype, rows: int, vocabulary: int) -> Case:
    def make() -> dict[str, Callable[[], object]]:
        # Taken in turn, so that none stays in a cache.
        count = 2 if rows * vocabulary > 10**7 else 8
        turns = cycle([(torch.randn(rows, vocabulary) * 4).to(device, dtype) for _ in range(count)])
        return {
            "logits_statistics": lambda: ops.logits_statistics(next(turns)),
            "torch: softmax, top-2": lambda: _softmax_top2(next(turns)),
            "torch: softmax, top-2, entropy": lambda: _softmax_top2_entropy(next(turns)),
        }

    return Case(
        op="logits_statistics", shape=f"{rows} x {vocabulary}", dtype=dtype,
        bytes_needed=rows * vocabulary * BYTES_PER_LOGIT, make=make,
    )  # fmt: skip


def _float64_gumbel(logits: Tensor) -> Tensor:
    """As the published samplers of LLaDA and Dream draw: noise for every token, in float64."""
    noise = torch.rand_like(logits, dtype=torch.float64)
    return (logits.double() - torch.log(-torch.log(noise))).argmax(-1)


def _nucleus_gumbel(logits: Tensor) -> Tensor:
    """The same for what a top-p of 0.95 leaves, found by sorting."""
    ordered, ids = logits.sort(-1, descending=True)
    probabilities = ordered.float().softmax(-1)
    is_behind = probabilities.cumsum(-1) - probabilities >= 0.95
    return _float64_gumbel(logits.masked_fill(is_behind.scatter(1, ids, is_behind), -torch.inf))


def _draws(device: torch.device, dtype: torch.dtype, rows: int, vocabulary: int) -> Case:
    def make() -> dict[str, Callable[[], object]]:
        count = 2 if rows * vocabulary > 10**7 else 8
        turns = cycle([(torch.randn(rows, vocabulary) * 4).to(device, dtype) for _ in range(count)])
        at = torch.arange(rows, device=device)
        keys = mix(at * WEYL)
        whole, nucleus = (
            torch.tensor([[1.0, top_p, 0, 0]], dtype=torch.float64, device=device).repeat(rows, 1)
            for top_p in (1.0, 0.95)
        )
        return {
            "gumbel_argmax": lambda: ops.gumbel_argmax(next(turns), at, keys, whole),
            "torch: float64 Gumbel noise": lambda: _float64_gumbel(next(turns)),
            "gumbel_argmax, top-p": lambda: ops.gumbel_argmax(next(turns), at, keys, nucleus),
            "torch: sort, float64 Gumbel noise": lambda: _nucleus_gumbel(next(turns)),
        }

    return Case(
        op="gumbel_argmax", shape=f"{rows} x {vocabulary}", dtype=dtype,
        bytes_needed=rows * vocabulary * BYTES_PER_DRAWN_LOGIT, make=make,
    )  # fmt: skip


def _pages(device: torch.device, dtype: torch.dtype, heads: int) -> Iterator[Case]:
    layers, num_pages, num_copies = 4, 256, 32
    width = heads * HEAD_DIM
    pool_bytes = layers * 2 * num_pages * PAGE_SIZE * width * dtype.itemsize

    # Small numbers drawn once: what is copied does not matter, and drawing it takes seconds.
    def make_pool() -> Tensor:
        pool = torch.empty(layers, 2, num_pages, PAGE_SIZE, heads, HEAD_DIM, dtype=dtype)
        return pool.copy_(torch.randn(PAGE_SIZE, heads, HEAD_DIM)).to(device)

    def make_rows() -> tuple[Tensor, Tensor, Iterator[Tensor]]:
        slots = torch.randperm(num_pages * PAGE_SIZE)[:ROWS].to(device)
        rows = torch.randn(ROWS, heads, HEAD_DIM).to(device, dtype)
        return rows, slots, cycle(make_pool().flatten(0, 1))  # pages of one layer, in turn

    def copy() -> dict[str, Callable[[], object]]:
        pool = make_pool()
        source, target = torch.randperm(num_pages)[: 2 * num_copies].view(2, num_copies)
        old, new = source.tolist(), target.tolist()
        source, target = source.to(device), target.to(device)
        return {
            "copy_pages": lambda: ops.copy_pages(pool, old, new),
            "torch: index and assign": lambda: pool.index_copy_(
                2, target, pool.index_select(2, source)
            ),
        }

    def store() -> dict[str, Callable[[], object]]:
        rows, slots, turns = make_rows()
        flat = rows.flatten(1)
        return {
            "store_rows": lambda: ops.store_rows(flat, next(turns).flatten(2), slots),
            "torch: index_copy_": lambda: next(turns).view(-1, width).index_copy_(0, slots, flat),
        }

    def gather() -> dict[str, Callable[[], object]]:
        _, slots, turns = make_rows()
        return {
            "gather_rows": lambda: ops.gather_rows(next(turns).flatten(2), slots),
            "torch: index_select": lambda: next(turns).view(-1, width).index_select(0, slots),
        }

    def similarity() -> dict[str, Callable[[], object]]:
        rows, slots, turns = make_rows()
        flat = rows.flatten(1)
        return {
            "row_similarity": lambda: ops.row_similarity(rows, next(turns), slots),
            "torch: index_select, cosine_similarity": lambda: torch.cosine_similarity(
                flat, next(turns).view(-1, width).index_select(0, slots), dim=1
            ),
        }

    sizes = f"{ROWS} x {width}"
    pages = f"{num_copies} pages of {layers} x 2 x {PAGE_SIZE} x {width}"
    for op, shape, make in (
        ("copy_pages", pages, copy),
        ("store_rows", sizes, store),
        ("gather_rows", sizes, gather),
        ("row_similarity", sizes, similarity),
    ):
        yield Case(op=op, shape=shape, dtype=dtype, bytes_needed=2 * pool_bytes, make=make)


def _segments(device: torch.device, segments: int, length: int) -> Case:
    def make() -> dict[str, Callable[[], object]]:
        values = torch.rand(segments * length).to(device)
        bounds = range(0, segments * length + 1, length)
        count = length // KEPT_SHARE
        counts = [count] * segments

        # Segments of one length: the best that can be done for PyTorch.
        def topk() -> Tensor:
            return values.view(segments, length).topk(count, largest=False).indices.sort().values

        return {
            "select_lowest": lambda: ops.select_lowest(values, bounds, counts),
            "torch: topk, sort": topk,
        }

    return Case(
        op="select_lowest", shape=f"{segments} x {length}", dtype=torch.float32,
        bytes_needed=segments * length * 16, make=make,
    )  # fmt: skip
