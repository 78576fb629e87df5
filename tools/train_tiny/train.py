"""Train the tiny model: one command, reproducible from its seed, resumable."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the customary name

from starr_engine.study.tasks import TASKS, make_problems
from tools.train_tiny.checkpoint import load_state, save_state, under
from tools.train_tiny.data import BatchMaker, hide
from tools.train_tiny.decode import decode
from tools.train_tiny.model import ModelConfig, TinyLLaDA, initialise
from tools.train_tiny.schedule import Phase, TrainConfig
from tools.train_tiny.tokenizer import build_tokenizer


class Trainer:
    """Holds all state of a run; ``save`` and ``load`` make a run resumable exactly."""

    def __init__(self, config: TrainConfig, device: str, compiled: bool) -> None:
        self.config, self.device = config, device
        self.tokenizer = build_tokenizer()
        self.mask_id, self.eos_id = self.tokenizer.mask_token_id, self.tokenizer.eos_token_id
        self.model = TinyLLaDA(ModelConfig(vocab_size=len(self.tokenizer)))
        initialise(self.model, config.seed, config.mimetic)
        self.model.to(device)
        # lengths differ from batch to batch: one graph for all of them
        self._hidden = (
            torch.compile(self.model.hidden, dynamic=True) if compiled else self.model.hidden
        )
        matrices = [p for p in self.model.blocks.parameters() if p.dim() == 2]
        others = [p for p in self.model.parameters() if all(p is not m for m in matrices)]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.batches = BatchMaker(self.tokenizer, config.seed, config.eos_weight)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.step = 0

    def train_step(self) -> dict[str, float]:
        """Make one update and return the mean loss of each kind of batch in it."""
        config = self.config
        phase, rate = config.phase(self.step), config.rate(self.step)
        for optimizer, lr in zip(self.optimizers, (phase.matrix_lr, phase.other_lr), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = lr * rate
        for group in self.optimizers[0].param_groups:
            group["weight_decay"] = phase.weight_decay
        names, shares = list(phase.mix), list(phase.mix.values())
        losses: dict[str, float] = {}
        for task in self.batches.rng.choices(names, shares, k=config.micro_batches):
            loss, per_token = self._loss(task, phase)
            (loss / config.micro_batches).backward()
            losses[task] = per_token
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return losses

    def _loss(self, task: str, phase: Phase) -> tuple[Tensor, float]:
        batch = self.batches.draw(task, self.config.micro_batch_positions, phase.short_share)
        ids, hidden, weight = hide(batch, self.mask_id, self.generator, phase.chain_share)
        norm = (batch.weight * batch.maskable).sum()
        ids, hidden, weight = (t.to(self.device) for t in (ids, hidden, weight))
        targets = batch.ids.to(self.device)[hidden]
        with torch.autocast(self.device, dtype=torch.bfloat16):
            logits = self.model.logits(self._hidden(ids)[hidden])
        entropy = F.cross_entropy(logits.float(), targets, reduction="none")
        loss = (entropy * weight[hidden]).sum() / norm
        real = batch.weight.to(self.device)[hidden] == 1.0
        return loss, entropy.detach()[real].mean().item()

    def score(self, count: int) -> dict[str, float]:
        """Return the share of unseen problems solved per task, one token per step."""
        scores = {}
        for name, task in TASKS.items():
            problems = make_problems(task, "test", count, seed=1)
            prompts = [self.tokenizer(p.prompt).input_ids for p in problems]
            with torch.autocast(self.device, dtype=torch.bfloat16):
                answers = decode(self.model, prompts, self.mask_id, self.eos_id)
            texts = self.tokenizer.batch_decode(answers)
            scores[name] = sum(task.score_many(problems, texts)) / count
        return scores

    def save(self, path: Path) -> None:
        """Write everything that the next step depends on."""
        tensors = {f"model.{name}": weight for name, weight in self.model.state_dict().items()}
        tensors["generator"] = self.generator.get_state()
        for index, optimizer in enumerate(self.optimizers):
            for parameter, state in optimizer.state_dict()["state"].items():
                for name, tensor in state.items():
                    tensors[f"optimizer{index}.{parameter}.{name}"] = tensor
        facts = {
            "step": self.step,
            "model_config": asdict(self.model.config),
            "mask_id": self.mask_id,
            "eos_id": self.eos_id,
            "batches": self.batches.state(),
        }
        save_state(path, tensors, facts)

    def load(self, path: Path) -> None:
        """Continue from a file written by ``save``."""
        tensors, facts = load_state(path)
        self.step = facts["step"]
        self.model.load_state_dict(under("model", tensors))
        self.generator.set_state(tensors["generator"])
        self.batches.restore(facts["batches"])
        for index, optimizer in enumerate(self.optimizers):
            state: dict[int, dict[str, Tensor]] = {}
            for key, tensor in under(f"optimizer{index}", tensors).items():
                parameter, _, name = key.partition(".")
                state.setdefault(int(parameter), {})[name] = tensor
            groups = optimizer.state_dict()["param_groups"]  # the rates are set anew at each step
            optimizer.load_state_dict({"state": state, "param_groups": groups})


def _cut_log(log: Path, step: int) -> None:
    """Drop the rows after ``step``, which a run that was interrupted will write again."""
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    log.write_text("".join(line for line in lines if json.loads(line)["step"] <= step))


def main() -> None:
    """Train, and log loss and scores as JSON lines."""
    parser = argparse.ArgumentParser(description=main.__doc__)
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
    config = TrainConfig()
    if args.steps:
        config = replace(config, steps=args.steps)
    trainer = Trainer(config, args.device, args.compile)
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
