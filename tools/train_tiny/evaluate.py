"""Score an exported checkpoint on unseen problems, one token per step, in float32."""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import tokenizers
import torch
import transformers
from transformers import AutoTokenizer

from starr_engine.study.tasks import TASKS, make_problems
from tools.train_tiny.kinds import kind_of

REQUIRED = {
    "word_problems": 0.7,
    "chains": 0.7,
    "sorting": 0.9,
    "code": 0.9,
    "json_extraction": 0.9,
}
"""Shares of solved problems that the shipped model must reach."""


def _first_line(path: str, key: str) -> str:
    """Return the value of the first ``key: value`` line of a file, or nothing."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def score_task(
    name: str, folder: Path, count: int, seed: int, device: str, threads: int
) -> tuple[float, list[str]]:
    """Return the share of solved problems of one task, and the wrong answers as texts."""
    torch.set_num_threads(threads)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    kind = kind_of(folder)
    model = kind.load_model(folder).to(device)
    task = TASKS[name]
    problems = make_problems(task, "test", count, seed)
    prompts = [tokenizer(p.prompt).input_ids for p in problems]
    answers = kind.decode(model, prompts, tokenizer.mask_token_id, tokenizer.eos_token_id)
    texts = tokenizer.batch_decode(answers)
    verdicts = task.score_many(problems, texts)
    wrong = [
        f"--- {problem.prompt}\n{text}\n+++ {problem.reference}"
        for problem, text, right in zip(problems, texts, verdicts, strict=True)
        if not right
    ]
    return sum(verdicts) / len(verdicts), wrong


def main() -> None:
    """Write scores.json; leave with status 1 if a requirement is not met."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--model", type=Path, required=True, help="exported folder")
    parser.add_argument("--output", type=Path, help="scores.json to write")
    parser.add_argument("--count", type=int, default=500, help="problems per task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="per process")
    parser.add_argument("--jobs", type=int, default=1, help="tasks scored at a time")
    parser.add_argument("--failures", type=int, default=0, help="wrong answers to print per task")
    args = parser.parse_args()
    started = time.monotonic()
    fixed = (args.model, args.count, args.seed, args.device, args.threads)
    scores = {}
    with ProcessPoolExecutor(args.jobs, get_context("spawn")) as pool:
        futures = {name: pool.submit(score_task, name, *fixed) for name in TASKS}
        for name, future in futures.items():
            scores[name], wrong = future.result()
            print(f"{name}: {scores[name]:.3f} (required {REQUIRED[name]})", flush=True)
            print(*wrong[: args.failures], sep="\n", flush=True)
    record = {
        "scores": scores,
        "required": REQUIRED,
        "problems_per_task": args.count,
        "decoding": kind_of(args.model).decoding,
        "dtype": "float32 (from the bfloat16 checkpoint)",
        "seconds": round(time.monotonic() - started, 1),
        "command": shlex.join(["python", "-m", "tools.train_tiny.evaluate", *sys.argv[1:]]),
        "commit": _commit(),
        "machine": {
            "device": args.device,
            "cpu": _first_line("/proc/cpuinfo", "model name") or platform.processor(),
            "threads": args.threads,
            "jobs": args.jobs,
        },
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
    }
    if args.output:
        args.output.write_text(json.dumps(record, indent=2) + "\n")
    if any(scores[name] < least for name, least in REQUIRED.items()):
        sys.exit("a required score was not reached")


if __name__ == "__main__":
    main()
