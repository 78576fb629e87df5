"""What each part of the CUDA path is worth: the same load with one of them off at a time.

CUDA graphs, steps launched ahead, the fused statistics of logits, the output head on masked rows
alone, states that stay stacked; and the feed-forward parts compiled, which is off by default. Every
variant is an engine of its own over the same made-up weights, and has the same seeds.

    python -m benchmarks.gpu.bench_ablations llada-8b --batches 1 16
    python -m benchmarks.gpu.bench_ablations llada2-mini --batches 1 16

With ``--device cpu --size tiny`` it runs anywhere (there without graphs).
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.gpu.bench_shapes import add_arguments, make_engine, peaks_of, run_case
from benchmarks.harness import write_result
from starr_engine.engine.options import EngineOptions

VARIANTS: dict[str, tuple[EngineOptions, dict[str, Any]]] = {
    "everything": (EngineOptions(), {}),
    "without CUDA graphs": (EngineOptions(), {"cuda_graphs": "off"}),
    "every step waited for": (EngineOptions(), {"launch_ahead": "off"}),
    "statistics of logits in PyTorch": (EngineOptions(fused_statistics=False), {}),
    "head on all rows": (EngineOptions(head_on_scored_rows=False), {}),
    "states cut and joined": (EngineOptions(stacked_states=False), {}),
    "feed-forward compiled": (EngineOptions(compile_backend="inductor"), {}),
}
"""What differs from an engine as users get it."""


def main(argv: Sequence[str] | None = None) -> None:
    """One shape, all variants."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add_arguments(parser)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.set_defaults(batches=[1, 16], tokens_per_step=[1, 2])
    args = parser.parse_args(argv)
    rows = []
    setting: dict[str, Any] = {}
    for name in args.variants:
        options, settings = VARIANTS[name]
        print(f"{name}:")
        engine = make_engine(args, options, **settings)
        config = engine.config
        setting = {
            "shape": args.shape, "size": args.size, "dtype": config.dtype, "device": config.device,
            "attention_backend": config.attention_backend, "quantization": config.quantization,
            "page_size": config.page_size, "prompt_len": args.prompt_len,
            "max_tokens": args.max_tokens,
        }  # fmt: skip
        peaks = peaks_of(args, engine)
        rows += [
            {"variant": name} | run_case(engine, args, peaks, batch, tokens)
            for tokens in args.tokens_per_step
            for batch in args.batches
        ]
        del engine
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    name = f"gpu_ablations_{args.shape.replace('-', '_')}"
    write_result(name, {"setting": setting, "rows": rows}, args.output)


if __name__ == "__main__":
    main()
