"""Score an exported checkpoint on unseen problems, one token per step, in float32."""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path

import tokenizers
import torch
import transformers
from transformers import AutoTokenizer

from starr_engine.study.tasks import TASKS, make_problems
from tools.train_tiny.decode import decode
from tools.train_tiny.export import load_model

REQUIRED = {"word_problems": 0.7, "sorting": 0.9, "code": 0.9, "json_extraction": 0.9}
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


def main() -> None:
    """Write scores.json; leave with status 1 if a requirement is not met."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--model", type=Path, required=True, help="exported folder")
    parser.add_argument("--output", type=Path, help="scores.json to write")
    parser.add_argument("--count", type=int, default=500, help="problems per task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--failures", type=int, default=0, help="wrong answers to print per task")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = load_model(args.model).to(args.device)
    started = time.monotonic()
    scores = {}
    for name, task in TASKS.items():
        problems = make_problems(task, "test", args.count, args.seed)
        prompts = [tokenizer(p.prompt).input_ids for p in problems]
        answers = decode(model, prompts, tokenizer.mask_token_id, tokenizer.eos_token_id)
        texts = tokenizer.batch_decode(answers)
        verdicts = task.score_many(problems, texts)
        scores[name] = sum(verdicts) / len(verdicts)
        print(f"{name}: {scores[name]:.3f} (required {REQUIRED[name]})", flush=True)
        wrong = [i for i, right in enumerate(verdicts) if not right]
        for i in wrong[: args.failures]:
            print(f"--- {problems[i].prompt}\n{texts[i]}\n+++ {problems[i].reference}")
    record = {
        "scores": scores,
        "required": REQUIRED,
        "problems_per_task": args.count,
        "decoding": "low-confidence remasking, one token per step, block 32, max 64 new tokens",
        "dtype": "float32 (from the bfloat16 checkpoint)",
        "seconds": round(time.monotonic() - started, 1),
        "command": shlex.join(["python", "-m", "tools.train_tiny.evaluate", *sys.argv[1:]]),
        "commit": _commit(),
        "machine": {
            "device": args.device,
            "cpu": _first_line("/proc/cpuinfo", "model name") or platform.processor(),
            "threads": args.threads,
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
