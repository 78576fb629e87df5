"""Times attention of a step, layer after layer, in every backend that serves the device.

    python -m benchmarks.bench_attention [--device cuda --dtype bfloat16 --page-size 256]

Heads are those of a small model and of an 8B model; steps are a block behind a prompt (one request
and 16), a refresh, and a block that is committed while the next one begins. Keys lie in as many
layers of pages as the caches of a machine cannot hold. On a CPU ``sdpa`` reads in place what lies
in consecutive pages; ``sdpa, shuffled pages`` has to gather. ``flex_attention`` is compiled, and
given keys that are gathered and laid out for it beforehand: it is timed without what it would need.
Backends take turns and must agree before they are timed. One thread on a CPU is timed by the
processor's time, which other processes take no part in.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from benchmarks.harness import summary, write_result
from starr_engine.attention.base import ATTENTION_BACKENDS, AttentionMetadata, AttentionShape
from starr_engine.attention.select import survey
from tests.helpers.attention import Lengths, causal, make_metadata, paged

HEADS = {"small": (8, 8, 64), "8B": (32, 8, 128)}
STEPS: dict[str, list[Lengths]] = {
    "block, 1 request": [paged(32, 544)],
    "block, 16 requests": [paged(32, 544)] * 16,
    "refresh": [paged(544, 544)],
    "commit, block-causal": [causal(paged(64, 576), 32)],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One step of one model, with pages in order and shuffled."""

    shape: AttentionShape
    lengths: list[Lengths]
    num_layers: int

    def layout(self, *, shuffled: bool) -> tuple[AttentionMetadata, int]:
        """Where rows lie, and how many pages there are."""
        return make_metadata(
            self.lengths,
            page_size=self.shape.page_size,
            device=self.shape.device,
            seed=0 if shuffled else None,
        )


def ways(case: Case) -> dict[str, Callable[[], Tensor]]:
    """What is timed: each runs all layers and returns the last one's result."""
    shape = case.shape
    in_order, num_pages = case.layout(shuffled=False)
    options: Any = {"device": shape.device, "dtype": shape.dtype}
    size = (shape.page_size, shape.num_kv_heads, shape.head_dim)
    pages = torch.randn((case.num_layers, 2, num_pages, *size), **options)
    num_rows = sum(in_order.query_lens)
    query = torch.randn((num_rows, shape.num_heads, shape.head_dim), **options)
    own = torch.randn((2, num_rows, shape.num_kv_heads, shape.head_dim), **options)

    def of(name: str, metadata: AttentionMetadata) -> Callable[[], Tensor]:
        backend = ATTENTION_BACKENDS.get(name)(shape)

        def run() -> Tensor:
            step = backend.plan(metadata)
            for layer in pages:
                out = step.attend(query, own[0], own[1], *layer)
            if shape.device.type == "cuda":
                torch.cuda.synchronize()
            return out

        return run

    serving = [each.name for each in survey(shape) if not each.reasons and each.name != "reference"]
    found = {name: of(name, in_order) for name in serving}
    if shape.device.type == "cpu":
        shuffled, _ = case.layout(shuffled=True)
        found["sdpa, shuffled pages"] = of("sdpa", shuffled)
        if not any(in_order.limited):
            found["flex_attention"] = flex(case, query, pages, in_order)
    return found


def flex(case: Case, query: Tensor, pages: Tensor, metadata: AttentionMetadata) -> Any:
    """Compiled flex_attention over keys that are laid out for it already."""
    shape, num = case.shape, len(case.lengths)
    length = case.lengths[0].read_len
    rows = query.view(num, -1, shape.num_heads, shape.head_dim).transpose(1, 2).contiguous()
    layers = [
        [
            cache.flatten(0, 1)[metadata.read_slots]
            .view(num, length, shape.num_kv_heads, shape.head_dim)
            .transpose(1, 2)
            .contiguous()
            for cache in layer
        ]
        for layer in pages
    ]
    compiled = torch.compile(flex_attention)
    grouped = shape.num_heads != shape.num_kv_heads

    def run() -> Tensor:
        for keys, values in layers:
            out = compiled(rows, keys, values, enable_gqa=grouped)
        made: Tensor = out.transpose(1, 2).reshape(query.shape)
        return made

    return run


def measure(case: Case, repeats: int) -> dict[str, Any]:
    """Time per layer of each way; the first one that is a backend's says what is right."""
    found = ways(case)
    expected = found["sdpa"]().double()
    for name, run in found.items():
        if "shuffled" not in name:
            torch.testing.assert_close(run().double(), expected, rtol=2e-2, atol=2e-2)
    is_alone = case.shape.device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if is_alone else time.perf_counter
    samples: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(repeats):
        for name, run in found.items():
            run()
            started = clock()
            run()
            samples[name].append((clock() - started) / case.num_layers)
    return {name: summary(each) for name, each in samples.items()}


def main() -> None:
    """Run all cases and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--page-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results = {}
    with torch.inference_mode():
        for model, (heads, kv_heads, head_dim) in HEADS.items():
            shape = AttentionShape(
                num_heads=heads,
                num_kv_heads=kv_heads,
                head_dim=head_dim,
                page_size=args.page_size,
                dtype=getattr(torch, args.dtype),
                device=torch.device(args.device),
            )
            for name, lengths in STEPS.items():
                case = Case(shape=shape, lengths=lengths, num_layers=args.layers)
                results[f"{model}: {name}"] = measure(case, args.repeats)
    settings = {name: value for name, value in vars(args).items() if name != "output"}
    result = {"settings": settings, "seconds per layer": results}
    write_result("attention" if args.device == "cpu" else "attention_cuda", result, args.output)


if __name__ == "__main__":
    main()
