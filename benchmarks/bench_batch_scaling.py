"""Tokens per second as the batch grows from 1 to 64, on a random model of about 50 M parameters.

Every batch decodes one block of 32 tokens, one per step, behind prompts of 128: one refresh and 31
steps inside the block.

    python -m benchmarks.bench_batch_scaling [--batches 1 2 4 8 16 32 64]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import write_result
from benchmarks.random_model import write_random_model
from starr_engine import SamplingParams
from starr_engine.bench.load import Load, LoadRequest, random_prompts
from starr_engine.bench.measure import measure
from starr_engine.bench.peaks import Peaks, measure_peaks
from starr_engine.config import EngineConfig
from starr_engine.engine.engine import Engine

PROMPT, TOKENS = 128, 32


def run_batch(engine: Engine, batch: int, repeats: int, peaks: Peaks) -> dict[str, Any]:
    """The median by tokens per second of some runs of a full batch."""
    params = SamplingParams(
        max_tokens=TOKENS,
        block_length=TOKENS,
        remasking="low_confidence",
        cache="dual",
        ignore_eos=True,
    )
    spec = engine.spec
    prompts = random_prompts(
        batch, (PROMPT, PROMPT), vocab_size=spec.vocab_size,
        excluded_ids=(spec.mask_token_id, *spec.eos_token_ids), seed=batch,
    )  # fmt: skip
    requests = tuple(LoadRequest(token_ids=prompt, params=params) for prompt in prompts)
    load = Load(requests=requests, concurrency=batch)
    runs = [
        measure(engine, load, warmup=None, profile=True, peaks=peaks).report for _ in range(repeats)
    ]
    runs.sort(key=lambda run: float(run["result"]["tokens_per_s"]))
    found = runs[len(runs) // 2]
    assert found["result"]["mean_batch"] == batch
    rate, share = found["result"]["tokens_per_s"], found["profile"]["roofline"]["all"]["share"]
    print(f"batch {batch:3}  {rate:8.1f} tokens/s  {share:.1%} of the roofline", flush=True)
    return {
        "batch": batch,
        **found,
        "all_tokens_per_s": [r["result"]["tokens_per_s"] for r in runs],
    }


def main() -> None:
    """All batches on one engine."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, help="default: torch's own choice")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to try this out")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = write_random_model(Path(name), length=PROMPT + TOKENS, tiny=args.tiny)
        engine = Engine(
            EngineConfig(
                model=str(folder),
                device="cpu",
                dtype="float32",
                max_num_requests=max(args.batches),
                num_pages=max(args.batches) * (PROMPT + TOKENS) // 32 + 1,
                num_threads=args.threads,
                canvas_cache=0,
            )
        )
    peaks = measure_peaks(engine.device, torch.float32)
    run_batch(engine, 1, 1, peaks)  # threads start, memory is taken
    rows = [run_batch(engine, batch, args.repeats, peaks) for batch in args.batches]
    setting = {
        "num_parameters": engine.num_parameters, "dtype": "float32", "prompt_len": PROMPT,
        "max_tokens": TOKENS, "block_length": TOKENS, "remasking": "low_confidence",
        "cache": "dual", "repeats": args.repeats,
    }  # fmt: skip
    write_result("batch_scaling", {"setting": setting, "rows": rows}, args.output)


if __name__ == "__main__":
    main()
