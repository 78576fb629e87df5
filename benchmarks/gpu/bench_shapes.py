"""Published shapes with made-up weights on one GPU: what a step costs, and the least it could.

Prompts of 512 random tokens, 256 new ones, batch 1 to 128, exactly 1 to 4 tokens per step. Of every
case: steps and tokens per second, shares of the roofline for steps inside a block and for
refreshes, phases, and the share of the time in which the GPU has anything to do.

    python -m benchmarks.gpu.bench_shapes llada-8b
    python -m benchmarks.gpu.bench_shapes dream-7b
    python -m benchmarks.gpu.bench_shapes llada2-mini

For an H100 SXM add ``--peak-bandwidth 3350 --peak-compute 989`` (GB/s and bfloat16 TFLOP/s of the
data sheet); without them both are measured. With ``--device cpu --size tiny`` it runs anywhere.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import write_result
from starr_engine import SamplingParams
from starr_engine.bench.load import Load, LoadRequest, random_prompts
from starr_engine.bench.measure import measure
from starr_engine.bench.peaks import Peaks, measure_peaks
from starr_engine.config import EngineConfig
from starr_engine.engine.engine import Engine
from starr_engine.engine.graphs.runner import GraphRunner
from starr_engine.engine.options import EngineOptions
from starr_engine.make_checkpoint.published import TINY, published_model
from starr_engine.make_checkpoint.writer import make_checkpoint

_NO_OPTIONS = EngineOptions()

SHAPES = {
    "llada-8b": ("llada", "8b"),
    "dream-7b": ("dream", "7b"),
    "llada2-mini": ("llada2", "2.0-mini"),
}
"""Architecture and size, as ``starr-engine make-checkpoint`` knows them."""


def make_engine(
    args: argparse.Namespace, options: EngineOptions = _NO_OPTIONS, **settings: Any
) -> Engine:
    """The shape, its weights made up on the device.

    Args:
        args: Of the command line.
        options: What is switched off.
        **settings: Fields of ``EngineConfig`` that differ from those of ``args``.
    """
    architecture, size = SHAPES[args.shape]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / args.shape
        published = published_model(architecture, args.size or size)
        make_checkpoint(folder, published, weights=False)
        fields: dict[str, Any] = {
            "model": str(folder),
            "load_format": "dummy",
            "device": args.device,
            "max_num_requests": max(args.batches),
            "max_model_len": args.prompt_len + args.max_tokens,
            "kv_memory": args.kv_memory,
            "attention_backend": args.attention_backend,
            "quantization": args.quantization,
            "prefix_caching": False,
            "canvas_cache": 0,
        }
        return Engine(EngineConfig(**(fields | settings)), options=options)


def full_batch(engine: Engine, args: argparse.Namespace, batch: int, tokens: int) -> Load:
    """``batch`` requests that run from the first step to the last."""
    spec = engine.spec
    params = SamplingParams(
        max_tokens=args.max_tokens,
        remasking="low_confidence",
        remasking_args={"tokens_per_step": tokens},
        ignore_eos=True,
    )
    prompts = random_prompts(
        batch, (args.prompt_len, args.prompt_len), vocab_size=spec.vocab_size,
        excluded_ids=(spec.mask_token_id, *spec.eos_token_ids), seed=batch,
    )  # fmt: skip
    requests = tuple(LoadRequest(token_ids=prompt, params=params) for prompt in prompts)
    return Load(requests=requests, concurrency=batch)


def run_case(
    engine: Engine, args: argparse.Namespace, peaks: Peaks, batch: int, tokens: int
) -> dict[str, Any]:
    """One batch at one number of tokens per step; None of the numbers where it does not fit."""
    case = {"batch": batch, "tokens_per_step": tokens}
    pages = batch * engine.keeper.num_pages_for(args.prompt_len + args.max_tokens)
    if pages > engine.keeper.num_usable:
        print(f"batch {batch:3}: needs {pages} pages, there are {engine.keeper.num_usable}")
        return case | {"fits": False}
    load = full_batch(engine, args, batch, tokens)
    graphs = engine.executor.graphs
    # The same steps: CUDA graphs are recorded when a step of their size first comes.
    found = measure(engine, load, warmup=load, profile=True, peaks=peaks).report
    found["graphs"] = None if graphs is None else graph_counts(graphs)
    result, roofline = found["result"], found["profile"]["roofline"]
    busy = found.get("gpu_busy_share")
    block = roofline.get("block_steps", {"share": float("nan")})
    refresh = roofline.get("refresh_steps", {"share": float("nan")})
    print(
        f"batch {batch:3}  TPF {result['tpf']:.2f}  {result['tokens_per_s']:9.1f} tokens/s  "
        f"{result['steps_per_s']:7.1f} steps/s  of the roofline: block steps {block['share']:.1%}, "
        f"refreshes {refresh['share']:.1%}" + ("" if busy is None else f"  GPU busy {busy:.1%}"),
        flush=True,
    )
    return case | {"fits": True, **found}


def graph_counts(graphs: GraphRunner) -> dict[str, Any]:
    """Steps so far, warm-up included, that were replayed, and why the others were not."""
    return {
        "replayed": graphs.replays.total(),
        "recordings": len(graphs.replays),
        "eager": dict(graphs.eager),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the shape, the load and the device."""
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--size", choices=(TINY,), help="in place of the published size")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64, 128])
    parser.add_argument("--tokens-per-step", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--prompt-len", type=int, default=512)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--kv-memory", default="auto", help="of what the largest step leaves")
    parser.add_argument("--attention-backend", default="auto")
    parser.add_argument("--quantization", default="none", choices=("none", "int8", "fp8"))
    parser.add_argument("--peak-bandwidth", type=float, metavar="GB/S")
    parser.add_argument("--peak-compute", type=float, metavar="TFLOP/S")
    parser.add_argument("--output", type=Path)


def peaks_of(args: argparse.Namespace, engine: Engine) -> Peaks:
    """Those given, or measured."""
    if args.peak_bandwidth and args.peak_compute:
        return Peaks(bytes_per_s=1e9 * args.peak_bandwidth, flops_per_s=1e12 * args.peak_compute)
    return measure_peaks(engine.device, getattr(torch, engine.config.dtype))


def main(argv: Sequence[str] | None = None) -> None:
    """One shape, all batches and paces."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add_arguments(parser)
    args = parser.parse_args(argv)
    engine = make_engine(args)
    peaks = peaks_of(args, engine)
    rows = [
        run_case(engine, args, peaks, batch, tokens)
        for tokens in args.tokens_per_step
        for batch in args.batches
    ]
    config = engine.config
    setting = {
        "shape": args.shape, "size": args.size, "num_parameters": engine.num_parameters,
        "weight_bytes": engine.weight_bytes, "dtype": config.dtype, "device": config.device,
        "attention_backend": config.attention_backend, "quantization": config.quantization,
        "num_pages": config.num_pages, "page_size": config.page_size,
        "ridge_tokens": config.ridge_tokens, "prompt_len": args.prompt_len,
        "max_tokens": args.max_tokens,
    }  # fmt: skip
    name = f"gpu_{args.shape.replace('-', '_')}"
    write_result(name, {"setting": setting, "rows": rows}, args.output)


if __name__ == "__main__":
    main()
