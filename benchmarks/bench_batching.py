"""Continuous against static batching of requests of mixed lengths, through the engine.

The same requests run three times: continuous; static, where a batch is admitted when all of the
last one have finished; and static and dense, as published implementations batch: one tensor, so
that all prompts of a batch are padded to its longest, and all decode as many tokens, at the pace,
of the longest and slowest. Tokens beyond what a request asked for do not count.

    python -m benchmarks.bench_batching [--model random|tiny-llada] [--requests 64] [--batch 8]
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.harness import write_result
from benchmarks.random_model import write_random_model
from starr_engine import SamplingParams
from starr_engine.bench.load import Load, LoadRequest, random_prompts
from starr_engine.bench.run import run_load
from starr_engine.config import EngineConfig
from starr_engine.engine.engine import Engine

BLOCK = 32
PROMPTS = (16, 128)
PACES = (1, 2, 4, 8)
"""Tokens per step, one of them drawn for each request: some texts decode faster than others."""

MODES = ("static, dense", "static", "continuous")


def mixed_requests(engine: Engine, count: int, max_blocks: int, seed: int) -> list[LoadRequest]:
    """Outputs of 1 to ``max_blocks`` blocks, log-uniform, each request at a pace of its own."""
    spec, drawn = engine.spec, random.Random(f"mixed/{seed}")
    prompts = random_prompts(
        count, PROMPTS, vocab_size=spec.vocab_size,
        excluded_ids=(spec.mask_token_id, *spec.eos_token_ids), seed=seed,
    )  # fmt: skip
    return [
        LoadRequest(
            token_ids=prompt,
            params=SamplingParams(
                max_tokens=BLOCK * round(max_blocks ** drawn.random()),
                block_length=BLOCK,
                remasking="low_confidence",
                remasking_args={"tokens_per_step": drawn.choice(PACES)},
                cache="dual",
                ignore_eos=True,
            ),
        )
        for prompt in prompts
    ]


def padded(batch: Sequence[LoadRequest]) -> list[LoadRequest]:
    """What one dense tensor makes of a batch."""
    params = replace(
        batch[0].params,
        max_tokens=max(each.params.max_tokens for each in batch),
        remasking_args={
            "tokens_per_step": min(
                int(each.params.remasking_args["tokens_per_step"] or 1) for each in batch
            )
        },
    )
    length = max(len(each.token_ids) for each in batch)
    return [
        LoadRequest(
            token_ids=each.token_ids[:1] * (length - len(each.token_ids)) + each.token_ids,
            params=params,
        )
        for each in batch
    ]


def run_mode(
    engine: Engine, requests: Sequence[LoadRequest], batch: int, mode: str
) -> dict[str, Any]:
    """All requests in one mode."""
    groups = [list(requests)]
    if mode != "continuous":
        groups = [list(requests[at : at + batch]) for at in range(0, len(requests), batch)]
    if mode == "static, dense":
        groups = [padded(group) for group in groups]
    found = [run_load(engine, Load(requests=tuple(each), concurrency=batch)) for each in groups]
    outputs = [each.output for result in found for each in result.requests]
    seconds = sum(result.seconds for result in found)
    steps = sum(result.num_steps for result in found)
    tokens = sum(each.params.max_tokens for each in requests)
    return {
        "mode": mode,
        "seconds": seconds,
        "tokens": tokens,
        "tokens_per_s": tokens / seconds,
        "steps": steps,
        "mean_batch": sum(output.nfe for output in outputs if output) / steps,
        "computed_rows": sum(output.computed_rows for output in outputs if output),
    }


def compare(engine: Engine, args: argparse.Namespace) -> list[dict[str, Any]]:
    """The median run of each mode, in turns, and its ratio to the others."""
    requests = mixed_requests(engine, args.requests, args.max_blocks, args.seed)
    run_load(engine, Load(requests=tuple(requests[: args.batch]), concurrency=args.batch))
    runs: dict[str, list[dict[str, Any]]] = {mode: [] for mode in MODES}
    for _ in range(args.repeats):
        for mode in MODES:
            runs[mode].append(run_mode(engine, requests, args.batch, mode))
    rows = []
    for mode in MODES:
        row = sorted(runs[mode], key=lambda run: float(run["seconds"]))[args.repeats // 2]
        row["all_seconds"] = [run["seconds"] for run in runs[mode]]
        row["over_dense"] = row["tokens_per_s"] / rows[0]["tokens_per_s"] if rows else 1.0
        rows.append(row)
        print(
            f"{mode:14} {row['tokens_per_s']:8.1f} tokens/s  {row['steps']:5} steps  "
            f"mean batch {row['mean_batch']:.2f}  {row['over_dense']:.2f}x",
            flush=True,
        )
    return rows


def main() -> None:
    """One model, three modes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default="random", help="random, of 50 M parameters, or any")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--max-blocks", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="default: torch's own choice")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to try this out")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    length = PROMPTS[1] + BLOCK * args.max_blocks
    with tempfile.TemporaryDirectory() as name:
        model = args.model
        if model == "random":
            model = str(write_random_model(Path(name), length=length, tiny=args.tiny))
        engine = Engine(
            EngineConfig(
                model=model,
                device="cpu",
                dtype="float32",
                max_num_requests=args.batch,
                num_threads=args.threads,
                canvas_cache=0,
            )
        )
    rows = compare(engine, args)
    setting = {
        "model": args.model, "num_parameters": engine.num_parameters, "requests": args.requests,
        "batch": args.batch, "prompt_len": PROMPTS, "max_blocks": args.max_blocks,
        "block_length": BLOCK, "tokens_per_step": PACES, "cache": "dual", "seed": args.seed,
        "repeats": args.repeats,
    }  # fmt: skip
    write_result("batching", {"setting": setting, "rows": rows}, args.output)


if __name__ == "__main__":
    main()
