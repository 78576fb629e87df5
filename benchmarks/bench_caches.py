"""What each cache policy computes and how long it takes, on random models of about 50 M parameters.

One token per step, 32 positions to a block. Rows of a complete request are counted for every size
by simulating its plans, which takes no model. Seconds are measured: a few whole requests where that
is affordable, elsewhere as many whole blocks as ``--max-rows`` allows, so that refreshes and other
steps keep their proportion; of ``none``, whose steps are all alike, as many steps. A case of which
one block is too much is not timed. Nothing is extrapolated: ratios compare seconds per step.

    python -m benchmarks.bench_caches [--max-rows 60000] [--whole none dual] [--only 512x1]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.cache_models import write_models
from benchmarks.harness import write_result
from benchmarks.plan_simulation import Shape, rows_per_step
from starr_engine import RequestOutput, SamplingParams
from starr_engine.cache.pool import bytes_per_page
from starr_engine.config import EngineConfig
from starr_engine.engine.engine import Engine

BLOCK = 32
MOST_STEPS = 8
"""Of a policy whose steps are all alike."""

POLICIES = {
    "bidirectional": ("none", "prefix", "dual", "vicinity", "delayed", "dllm"),
    "block_causal": ("none", "block_causal"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One policy at one size."""

    model: str
    cache: str
    prompt_len: int
    batch: int
    max_tokens: int
    num_layers: int

    def rows(self) -> list[int]:
        """Rows of each step of one complete request."""
        shape = Shape(
            prompt_len=self.prompt_len,
            max_tokens=self.max_tokens,
            block_length=BLOCK,
            mask_block=self.model == "block_causal",
            num_layers=self.num_layers,
        )
        return rows_per_step(self.cache, {}, shape)

    def num_steps(self, rows: Sequence[int], max_rows: int, *, whole: bool) -> int:
        """Steps to time: all, or whole blocks, or single steps of ``none``; 0 if it is too much."""
        if whole:
            return len(rows)
        unit, most = (1, MOST_STEPS) if self.cache == "none" else (BLOCK, BLOCK)
        counts = range(unit, min(most, len(rows)) + 1, unit)
        return max((n for n in counts if self.batch * sum(rows[:n]) <= max_rows), default=0)


def measure(engine: Engine, case: Case, num_steps: int) -> dict[str, Any]:
    """Run the first steps of a full batch, alone in the engine, and count."""
    rng = np.random.default_rng(case.prompt_len)
    vocab = engine.spec.vocab_size
    params = SamplingParams(
        max_tokens=case.max_tokens, block_length=BLOCK, cache=case.cache, ignore_eos=True
    )
    ids = [
        engine.add_request(rng.integers(4, vocab, case.prompt_len).tolist(), params)
        for _ in range(case.batch)
    ]
    finished: dict[str, RequestOutput] = {}
    pool, most_pages, step_s = engine.page_pool, 0, []
    for _ in range(num_steps):
        started = time.perf_counter()
        changes = engine.step()
        step_s.append(time.perf_counter() - started)
        most_pages = max(most_pages, pool.num_pages - 1 - pool.num_free)
        finished |= {each.request_id: each for each in changes if isinstance(each, RequestOutput)}
    ended = [finished.get(request_id) or engine.abort(request_id) for request_id in ids]
    outputs = [output for output in ended if output is not None]
    assert len(outputs) == case.batch
    assert all(output.error is None for output in outputs)
    assert all(output.nfe == output.num_unmasked == num_steps for output in outputs)
    seconds, spec = sum(step_s), engine.spec
    page_bytes = bytes_per_page(
        num_layers=spec.num_layers,
        page_size=pool.page_size,
        num_kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        dtype=torch.float32,
    )
    return {
        "steps": num_steps,
        "is_whole": num_steps == case.max_tokens,
        "rows": sum(output.computed_rows for output in outputs),
        "seconds": seconds,
        "s_per_step": seconds / num_steps,
        "tokens_per_s": case.batch * num_steps / seconds,
        "peak_pool_bytes": most_pages * page_bytes,
        "cache_label": outputs[0].cache_label,
        "step_s": step_s,
    }


def run_case(engine: Engine, case: Case, max_rows: int, *, whole: bool) -> dict[str, Any]:
    """Count a whole request, and time what is to be timed."""
    rows = case.rows()
    steps = case.num_steps(rows, max_rows, whole=whole)
    timed = measure(engine, case, steps) if steps else None
    if timed is not None:
        assert timed["rows"] == case.batch * sum(rows[:steps]), "the plans give other rows"
    found = "not timed" if timed is None else f"{1e3 * timed['s_per_step']:9.1f} ms/step ({steps})"
    print(
        f"{case.model:13} {case.prompt_len:5} x {case.batch}  {case.cache:12} "
        f"{sum(rows):8} rows/request  {found}",
        flush=True,
    )
    return {
        "model": case.model,
        "cache": case.cache,
        "prompt_len": case.prompt_len,
        "batch": case.batch,
        "nfe": len(rows),
        "rows_per_request": sum(rows),
        "timed": timed,
    }


def add_ratios(rows: list[dict[str, Any]]) -> None:
    """Compare each row with ``none`` of its own model and size."""
    base = {
        (row["model"], row["prompt_len"], row["batch"]): row
        for row in rows
        if row["cache"] == "none"
    }
    for row in rows:
        none = base.get((row["model"], row["prompt_len"], row["batch"]))
        if none is None:
            continue
        row["rows_ratio"] = none["rows_per_request"] / row["rows_per_request"]
        both = none["timed"] is not None and row["timed"] is not None
        row["time_ratio"] = (
            none["timed"]["s_per_step"] / row["timed"]["s_per_step"] if both else None
        )


def run_model(args: argparse.Namespace, model: str, engine: Engine) -> list[dict[str, Any]]:
    """All sizes and policies on one model."""

    def case(cache: str, prompt_len: int, batch: int) -> Case:
        return Case(
            model=model, cache=cache, prompt_len=prompt_len, batch=batch,
            max_tokens=args.max_tokens, num_layers=args.layers,
        )  # fmt: skip

    measure(engine, case("none", min(args.prompts), 1), 2)  # threads start, memory is taken
    rows = []
    for prompt_len in args.prompts:
        for batch in args.batches:
            size = f"{prompt_len}x{batch}"
            budget = args.max_rows if args.only in (None, size) else 0
            for cache in POLICIES[model]:
                whole = size == args.whole_at and budget > 0 and cache in args.whole
                whole = whole and model == "bidirectional"
                rows.append(run_case(engine, case(cache, prompt_len, batch), budget, whole=whole))
    return rows


def options() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--prompts", type=int, nargs="+", default=[128, 512, 2048],
                        help=f"multiples of {BLOCK}")  # fmt: skip
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--only", help="time this size alone, as 512x1; others are counted")
    parser.add_argument("--max-rows", type=int, default=60_000, help="of a case that is timed")
    parser.add_argument("--whole", nargs="*", default=["none", "dual"], metavar="POLICY",
                        help="bidirectional: run to the end at --whole-at")  # fmt: skip
    parser.add_argument("--whole-at", default="512x1")
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--vocab", type=int, default=8_192)
    parser.add_argument("--threads", type=int, help="default: torch's own choice")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    if any(count % BLOCK for count in (*args.prompts, args.max_tokens)):
        # Else a block-causal model's blocks would not be those of the others.
        parser.error(f"prompts and new tokens must be multiples of {BLOCK}")
    return args


def main() -> None:
    """Measure all sizes and write the result."""
    args = options()
    rows: list[dict[str, Any]] = []
    num_parameters = {}
    with tempfile.TemporaryDirectory() as name:
        folders = write_models(
            Path(name), width=args.width, layers=args.layers, vocab=args.vocab,
            length=max(args.prompts) + args.max_tokens, block=BLOCK,
        )  # fmt: skip
        for model, folder in folders.items():
            config = EngineConfig(
                model=str(folder),
                device="cpu",
                dtype="float32",
                max_num_requests=max(args.batches),
                num_threads=args.threads,
                canvas_cache=0,
                prefix_caching=False,
            )
            engine = Engine(config)
            num_parameters[model] = engine.num_parameters
            rows += run_model(args, model, engine)
            del engine  # before the next one takes its memory
    add_ratios(rows)
    setting = {
        "num_parameters": num_parameters, "dtype": "float32", "vocab_size": args.vocab,
        "width": args.width, "layers": args.layers, "block_length": BLOCK,
        "max_tokens": args.max_tokens, "remasking": "low_confidence", "tokens_per_step": 1,
        "max_rows": args.max_rows, "whole": args.whole, "whole_at": args.whole_at,
        "canvas_cache": 0, "prefix_caching": False,
    }  # fmt: skip
    write_result("caches", {"setting": setting, "rows": rows}, args.output)


if __name__ == "__main__":
    main()
