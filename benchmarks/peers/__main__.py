"""This engine beside what one would take instead, on one checkpoint, machine and set of prompts.

Peers: a loop over transformers' own model; LLaDA's, Fast-dLLM's and SDAR's published procedures.
What must be equal is compared token by token before anything is timed. Shipped models solve tasks;
``random``, of about 50 M parameters, shows times where a forward is no trifle.

    python -m benchmarks.peers [--model tiny-llada] [--original llada=PATH] [--early-stop off]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import write_result
from benchmarks.peers.compare import compare
from benchmarks.peers.dense import DenseForward
from benchmarks.peers.originals import ORIGINALS, Function, OriginalError, load_original
from benchmarks.peers.systems import systems_of
from benchmarks.peers.transformers_loop import TransformersForward
from benchmarks.peers.workload import Workload, random_workload, task_workload
from benchmarks.random_model import write_random_model
from starr_engine.config import EngineConfig
from starr_engine.engine.engine import Engine
from starr_engine.models.loading.loader import load_model
from starr_engine.models.loading.locate import resolve_model
from starr_engine.study.problem_sets import PROBLEM_SETS, TRAINED_SETS
from starr_engine.study.tasks import HARD_TASKS

RANDOM = "random"
SETS = [*TRAINED_SETS, *HARD_TASKS]


def run_model(
    name: str, folder: Path, args: argparse.Namespace, originals: Mapping[str, dict[str, Function]]
) -> dict[str, Any]:
    """All systems on one model."""
    is_random = name == RANDOM
    batches = args.random_batches if is_random else args.batches
    engine = Engine(
        EngineConfig(
            model=str(folder),
            device=args.device,
            dtype=args.dtype,
            max_num_requests=max(batches),
            num_threads=args.threads,
            canvas_cache=0,
            prefix_caching=False,  # every run makes all of its forwards
        )
    )
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    spec = engine.spec
    dense = DenseForward(load_model(folder, device, dtype))
    hf = TransformersForward(
        folder, device, dtype, mask_block=spec.block_length, mask=spec.mask_token_id
    )
    workload = (
        random_workload(
            spec, args.random_prompts, tuple(args.random_lengths), args.random_tokens,
            args.random_pace, args.seed,
        )
        if is_random
        else task_workload(
            engine, args.sets, args.problems, args.seed, early_stop=args.early_stop == "on"
        )
    )  # fmt: skip
    repeats = args.random_repeats if is_random else args.repeats
    print(f"{name}: {len(workload.prompts)} prompts", flush=True)
    systems = systems_of(engine, dense, hf, workload.asked, batches, originals)
    return {
        "model": name,
        "num_parameters": engine.num_parameters,
        "setting": _setting(workload, batches, repeats),
        **compare(systems, workload, repeats),
    }


def _setting(workload: Workload, batches: list[int], repeats: int) -> dict[str, Any]:
    asked, prompts = workload.asked, workload.prompts
    lengths = [len(prompt.token_ids) for prompt in prompts]
    return {
        "prompts": len(prompts),
        "prompt_tokens": [min(lengths), max(lengths)],
        "max_tokens": sorted({prompt.max_tokens for prompt in prompts}),
        "block_length": asked.block_length,
        "tokens_per_step": asked.tokens_per_step,
        "threshold": asked.threshold,
        "early_stop": asked.early_stop,
        "batches": batches,
        "repeats": repeats,
    }


def options(argv: list[str] | None) -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--model", action="append", help=f"a shipped one, a folder, or {RANDOM}; "
                        f"several times (default: tiny-llada, tiny-sdar, {RANDOM})")  # fmt: skip
    parser.add_argument("--original", action="append", default=[], metavar="NAME=PATH",
                        help="also run the authors' code at PATH, which is imported, so that it "
                        f"runs with your rights; NAME is {', '.join(ORIGINALS)}")  # fmt: skip
    parser.add_argument("--early-stop", choices=("on", "off"), default="on",
                        help="of all that have it: end behind the block with EOS")  # fmt: skip
    parser.add_argument("--sets", nargs="+", default=SETS, choices=PROBLEM_SETS)
    parser.add_argument("--problems", type=int, default=4, help="of each set")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--random-prompts", type=int, default=8)
    parser.add_argument("--random-lengths", type=int, nargs=2, default=[64, 128],
                        metavar=("MIN", "MAX"))  # fmt: skip
    parser.add_argument("--random-tokens", type=int, default=64, help="to generate, whole blocks")
    parser.add_argument("--random-pace", type=int, default=2, help="tokens per step")
    parser.add_argument("--random-batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--random-repeats", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="tiny random model, to try this out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--threads", type=int, help="of every system; default: torch's own choice")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args(argv)
    for batches in (args.batches, args.random_batches):
        if batches[0] != 1:
            parser.error("batch sizes must begin with 1, where most peers run")
    if min(args.repeats, args.random_repeats) < 2:
        parser.error("a spread needs at least 2 repeats")
    return args


def _originals(given: list[str]) -> dict[str, dict[str, Function]]:
    loaded = {}
    for each in given:
        name, equals, path = each.partition("=")
        if not equals:
            raise OriginalError(f"--original takes NAME=PATH, got {each!r}")
        loaded[name] = load_original(name, Path(path).expanduser())
    return loaded


def main(argv: list[str] | None = None) -> int:
    """Compare and write the result.

    Returns:
        0; 1 if systems differ that must not; 2 if an original cannot be run.
    """
    args = options(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    models = []
    try:
        originals = _originals(args.original)
        with tempfile.TemporaryDirectory() as scratch:
            for name in args.model or ["tiny-llada", "tiny-sdar", RANDOM]:
                if name == RANDOM:
                    length = args.random_lengths[1] + args.random_tokens
                    folder = write_random_model(Path(scratch), length=length, tiny=args.tiny)
                else:
                    folder = resolve_model(name)
                models.append(run_model(name, folder, args, originals))
    except OriginalError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    setting = {
        "dtype": args.dtype, "device": args.device, "sets": args.sets, "seed": args.seed,
        "originals": sorted(originals),
    }  # fmt: skip
    write_result("peers", {"setting": setting, "models": models}, args.output)
    return int(any(pair["differing"] for model in models for pair in model["pairs"]))


if __name__ == "__main__":
    sys.exit(main())
