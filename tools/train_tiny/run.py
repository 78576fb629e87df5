"""The single command: train, export, score."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from tools.train_tiny.kinds import KINDS


def main() -> None:
    """Make a shipped model, from nothing to its scores."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--model", choices=KINDS, default="tiny-llada")
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--output", type=Path, required=True, help="folder of the model")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    threads = ["--threads", str(args.threads)]
    _module("train", "--model", args.model, "--run", str(args.work), *threads)
    checkpoint = str(args.work / "checkpoint.safetensors")
    _module("export", "--checkpoint", checkpoint, "--output", str(args.output))
    shutil.copy(args.work / "training_log.jsonl", args.output)
    scores = str(args.output / "scores.json")
    _module("evaluate", "--model", str(args.output), "--output", scores, *threads)


def _module(name: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", f"tools.train_tiny.{name}", *arguments], check=True)


if __name__ == "__main__":
    main()
