"""Train the tiny model: one command, reproducible from its seed, resumable."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tools.train_tiny.kinds import KINDS


def _cut_log(log: Path, step: int) -> None:
    """Drop the rows after ``step``, which a run that was interrupted will write again."""
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    log.write_text("".join(line for line in lines if json.loads(line)["step"] <= step))


def main() -> None:
    """Train, and log loss and scores as JSON lines."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--model", choices=KINDS, default="tiny-llada")
    parser.add_argument("--run", type=Path, required=True, help="folder of checkpoint and log")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--stop", type=int, help="stop early, keeping the schedule")
    parser.add_argument("--eval-every", type=int, default=500)
    parser.add_argument("--save-every", type=int, default=100)
    parser.add_argument("--compile", action="store_true", help="a fifth faster; needs g++")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.run.mkdir(parents=True, exist_ok=True)
    kind = KINDS[args.model]
    config = kind.config
    if args.steps:
        config = replace(config, steps=args.steps)
    trainer = kind.trainer(config, args.device, args.compile)
    checkpoint, log = args.run / "checkpoint.safetensors", args.run / "training_log.jsonl"
    if checkpoint.exists():
        trainer.load(checkpoint)
        _cut_log(log, trainer.step)
    started = time.monotonic()
    sums: dict[str, list[float]] = {}
    end = min(args.stop or config.steps, config.steps)
    while trainer.step < end:
        for task, loss in trainer.train_step().items():
            sums.setdefault(task, []).append(loss)
        done = trainer.step == end
        if trainer.step % 25 == 0 or done:
            row: dict[str, Any] = {
                "step": trainer.step,
                "seconds": round(time.monotonic() - started, 1),
                "loss": {k: round(sum(v) / len(v), 4) for k, v in sorted(sums.items())},
            }
            sums = {}
            if trainer.step % args.eval_every == 0 or done:
                row["score"] = trainer.score(32)
            with log.open("a") as file:
                file.write(json.dumps(row) + "\n")
        if trainer.step % args.save_every == 0 or done:
            trainer.save(checkpoint)


if __name__ == "__main__":
    main()
