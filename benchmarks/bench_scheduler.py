"""Static and continuous batching, with refreshes that coincide or are spread: 100,000 requests.

The engine's own selection decides every step of a simulated trace; the model is replaced by what
it would take on an H100 at the least: LLaDA-8B in bfloat16, its weights read once a step, or its
arithmetic, whichever is longer. One trace has requests come all at once, for throughput; the other,
for latencies, by a Poisson process at a share of what continuous batching managed.

Static batching admits requests when all of the last batch have finished. ``dense`` goes on
computing the blocks of those that have, as published implementations do, whose batch is one tensor;
without it rows leave as they finish.

    python -m benchmarks.bench_scheduler [--requests 100000] [--places 16 64]
"""

from __future__ import annotations

import argparse
import random
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.arrival_simulation import Arrival, Machine, Report, simulate
from benchmarks.harness import write_result
from starr_engine.bench.report import percentiles
from starr_engine.engine.loading import CUDA_RIDGE_ROWS
from starr_engine.make_checkpoint.published import published_model
from starr_engine.make_checkpoint.writer import make_checkpoint
from starr_engine.models.loading.loader import build_model

BYTES_PER_S, FLOPS_PER_S = 3.35e12, 989e12
"""Of an H100 SXM in bfloat16 without sparsity, by NVIDIA's data sheet."""

BLOCK = 32
MODES: dict[str, dict[str, Any]] = {
    "static, dense": {"static": True, "dense": True, "ridge_rows": 0},
    "static": {"static": True, "ridge_rows": 0},
    "continuous, refreshes coincide": {"ridge_rows": 0},
    "continuous, refreshes spread": {"ridge_rows": CUDA_RIDGE_ROWS},
}


def h100_with_llada() -> Machine:
    """Seconds from the shapes of LLaDA-8B and the peaks of an H100."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "llada"
        make_checkpoint(folder, published_model("llada", "8b"), weights=False)
        model = build_model(folder)  # without memory for its weights
    spec = model.spec
    values = sum(weight.numel() for weight in model.parameters())
    embedding = spec.vocab_size * spec.hidden_size
    kv_values = 2 * spec.num_layers * spec.num_kv_heads * spec.head_dim
    attended = spec.num_layers * spec.num_heads * spec.head_dim
    # The head is counted for all rows of a block, and so for all of a refresh: a little too much.
    return Machine(
        weights_s=2 * (values - embedding) / BYTES_PER_S,
        row_s=2 * (values - embedding) / FLOPS_PER_S,
        read_s=2 * kv_values / BYTES_PER_S,
        pair_s=4 * attended / FLOPS_PER_S,
    )


def chat_trace(num_requests: int, rate: float, seed: int) -> list[Arrival]:
    """Prompts of 64 to 1,024 tokens, 2 to 16 blocks of 32, each in 8 to 24 steps; log-uniform."""
    drawn = random.Random(f"chat/{seed}")

    def between(least: int, most: int) -> int:
        return round(least * (most / least) ** drawn.random())

    due_s, arrivals = 0.0, []
    for arrival in range(num_requests):
        due_s += drawn.expovariate(rate) if rate else 0.0
        blocks = between(2, 16)
        # How fast a request decodes is its own: of what it is about.
        least = drawn.randint(7, 15)
        arrivals.append(
            Arrival(
                arrival=arrival,
                due_s=due_s,
                canvas=between(64, 1024) + BLOCK * blocks,
                block=BLOCK,
                steps=[drawn.randint(least, least + 8) for _ in range(blocks)],
            )
        )
    return arrivals


def numbers(report: Report, num_tokens: int) -> dict[str, Any]:
    """Throughput, how even steps are, and latencies."""
    return {
        "requests": report.num_finished,
        "seconds": report.seconds,
        "tokens_per_s": num_tokens / report.seconds,
        "requests_per_s": report.num_finished / report.seconds,
        "steps": len(report.step_s),
        "step": percentiles(report.step_s) | {"deviation_s": float(np.std(report.step_s))},
        "first_block": percentiles(report.first_block_s),
        "request": percentiles(report.end_s),
        "longest_wait_steps": report.longest_wait,
    }


def run_mode(
    args: argparse.Namespace, machine: Machine, places: int, mode: str, rate: float
) -> dict[str, Any]:
    """One trace in one mode; equal seeds give all modes the same requests."""
    arrivals = chat_trace(args.requests, rate, args.seed)
    num_tokens = sum(BLOCK * len(each.steps) for each in arrivals)
    report = simulate(
        arrivals, places=places, max_rows=args.max_rows, machine=machine, **MODES[mode]
    )
    found = numbers(report, num_tokens)
    step, first = found["step"], found["first_block"]
    print(
        f"{places:3} places  {mode:31} {rate or float('inf'):7.1f}/s  "
        f"{found['tokens_per_s']:8.0f} tokens/s  "
        f"step p50 {1e3 * step['p50_s']:.1f} p99 {1e3 * step['p99_s']:.1f} ms  "
        f"first block p50 {first['p50_s']:.3f} p99 {first['p99_s']:.3f} s",
        flush=True,
    )
    return {"places": places, "mode": mode, "arrival_rate": rate, **found}


def main() -> None:
    """Throughput of every mode, then latencies at shares of what continuous batching manages."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--places", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--max-rows", type=int, default=65_536, help="of a step")
    parser.add_argument("--loads", type=float, nargs="+", default=[0.8])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    machine = h100_with_llada()
    rows = []
    for places in args.places:
        at_once = [run_mode(args, machine, places, mode, rate=0.0) for mode in MODES]
        most = max(row["requests_per_s"] for row in at_once)
        rates = [share * most for share in args.loads]
        timed = [run_mode(args, machine, places, mode, rate) for rate in rates for mode in MODES]
        rows += at_once + timed
    setting = {
        "requests": args.requests, "places": args.places, "max_rows": args.max_rows,
        "ridge_rows": CUDA_RIDGE_ROWS, "block_length": BLOCK, "loads": args.loads,
        "seed": args.seed, "machine": asdict(machine), "peak_bytes_per_s": BYTES_PER_S,
        "peak_flops_per_s": FLOPS_PER_S, "model": "LLaDA-8B, bfloat16",
    }  # fmt: skip
    write_result("scheduler", {"setting": setting, "rows": rows}, args.output)


if __name__ == "__main__":
    main()
