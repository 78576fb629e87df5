"""How the engine's own cost per step grows with running requests and with the prompt's length.

The forward is a stub; everything else is the engine's: scheduling, plans and their checks, layout
of the batch, scores, decisions, canvases and pages. One refresh fills every request's pages, then
steps inside the block are timed. ``growth`` is the slope of a straight line through log(seconds)
over log(size): 1 is proportional, 0 constant. Seconds are those of one thread's processor time, so
that other work on the machine does not count.

    python -m benchmarks.bench_growth [--requests 1 4 16 64 256 1000] [--prompts 128 ... 32768]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.harness import write_result
from benchmarks.stub_executor import StubExecutor
from starr_engine import SamplingParams
from starr_engine.bench.profiler import PHASES, StepProfiler
from starr_engine.config import EngineConfig
from starr_engine.engine.engine import Engine
from tests.helpers.checkpoints import llada_config, write_checkpoint
from tests.helpers.sdar_checkpoints import sdar_config, write_sdar_checkpoint

BLOCK = 32
TIMED = tuple(phase for phase in PHASES if phase not in ("forward", "logits"))
CACHES = ("dual", "block_causal")


def write_small_models(folder: Path, length: int) -> dict[str, Path]:
    """A model for each cache: one layer, two heads of 8, so that pages are small."""
    llada = llada_config(
        d_model=16, n_heads=2, n_kv_heads=2, n_layers=1, mlp_hidden_size=16,
        max_sequence_length=length,
    )  # fmt: skip
    sdar = sdar_config(
        hidden_size=16, num_attention_heads=2, num_key_value_heads=2, head_dim=8,
        num_hidden_layers=1, max_window_layers=1, intermediate_size=16,
        max_position_embeddings=length, block_size=BLOCK,
    )  # fmt: skip
    return {
        "dual": write_checkpoint(folder / "llada", llada),
        "block_causal": write_sdar_checkpoint(folder / "sdar", sdar),
    }


def measure(folder: Path, cache: str, requests: int, prompt: int, steps: int) -> dict[str, Any]:
    """Median seconds of each phase of a step inside a block, all requests running."""
    length = prompt + 2 * BLOCK
    engine = Engine(
        EngineConfig(
            model=str(folder),
            device="cpu",
            dtype="float32",
            max_num_requests=requests,
            max_num_batched_tokens=requests * length,
            num_pages=requests * -(-length // 32) + 1,
            canvas_cache=0,
            num_threads=1,
        )
    )
    engine.executor = StubExecutor(engine.executor.model)  # type: ignore[assignment]
    rng = np.random.default_rng(0)
    params = SamplingParams(
        max_tokens=2 * BLOCK,
        block_length=BLOCK,
        cache=cache,
        remasking="low_confidence",
        ignore_eos=True,
    )
    for _ in range(requests):
        engine.add_request(rng.integers(4, 101, prompt).tolist(), params)
    profiler = StepProfiler(time.process_time)
    with profiler.watch(engine):
        for _ in range(steps + 1):
            engine.step()
    assert all(step.num_requests == requests for step in profiler.steps), "all requests must run"
    assert profiler.steps[0].has_refresh
    assert not any(step.has_refresh for step in profiler.steps[1:])
    phases = {
        phase: median(s.stop_s - s.start_s for s in profiler.spans if s.phase == phase and s.step)
        for phase in TIMED
    }
    total = sum(phases.values())
    print(
        f"{cache:12} {requests:5} requests, prompts of {prompt:6}: {1e3 * total:8.3f} ms per step, "
        f"{1e6 * total / requests:8.1f} us per request",
        flush=True,
    )
    return {"cache": cache, "requests": requests, "prompt": prompt, "s": total, "phases_s": phases}


def growth(sizes: Sequence[int], rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Slopes of log(seconds) over log(size), of all phases together and of each.

    ``last`` is that of the two largest sizes, where the fixed cost of a step no longer shows.
    """
    logs = np.log(sizes)
    seconds = {"all": [row["s"] for row in rows]}
    seconds |= {phase: [row["phases_s"][phase] for row in rows] for phase in TIMED}
    slopes = {name: float(np.polyfit(logs, np.log(each), 1)[0]) for name, each in seconds.items()}
    return slopes | {"last": float(np.polyfit(logs[-2:], np.log(seconds["all"][-2:]), 1)[0])}


def main() -> None:
    """Grow the one with the other fixed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--requests", type=int, nargs="+", default=[1, 4, 16, 64, 256, 1000])
    parser.add_argument("--prompt", type=int, default=256, help="while requests grow")
    parser.add_argument(
        "--prompts", type=int, nargs="+", default=[128, 512, 2048, 8192, 16384, 32768]
    )
    parser.add_argument("--running", type=int, default=16, help="while prompts grow")
    parser.add_argument("--steps", type=int, default=24, help="timed, of the first block's 32")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    if not 1 <= args.steps < BLOCK:
        parser.error(f"--steps must be below the block's {BLOCK}")
    by_requests: list[dict[str, Any]] = []
    by_prompt: list[dict[str, Any]] = []
    slopes: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folders = write_small_models(Path(name), max(*args.prompts, args.prompt) + 2 * BLOCK)
        for cache in CACHES:
            folder = folders[cache]
            more = [measure(folder, cache, n, args.prompt, args.steps) for n in args.requests]
            longer = [measure(folder, cache, args.running, n, args.steps) for n in args.prompts]
            slopes[cache] = {
                "requests": growth(args.requests, more),
                "prompt": growth(args.prompts, longer),
            }
            by_requests += more
            by_prompt += longer
    for cache, found in slopes.items():
        for what, each in found.items():
            print(
                f"{cache:12} grows with {what} as its power {each['all']:.2f}, "
                f"{each['last']:.2f} at last"
            )
    setting = {
        "block_length": BLOCK, "steps": args.steps, "prompt": args.prompt,
        "running": args.running, "page_size": 32, "remasking": "low_confidence",
    }  # fmt: skip
    result = {"by_requests": by_requests, "by_prompt": by_prompt, "growth": slopes}
    write_result("growth", {"setting": setting, **result}, args.output)


if __name__ == "__main__":
    main()
