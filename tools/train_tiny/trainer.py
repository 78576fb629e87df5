"""What training the two tiny models has in common: the step, the log's scores, the checkpoint."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the customary name

from starr_engine.study.tasks import TASKS, make_problems
from tools.train_tiny.checkpoint import load_state, save_state, under
from tools.train_tiny.data import Batch, BatchMaker
from tools.train_tiny.muon import Float32Muon
from tools.train_tiny.schedule import Phase, TrainConfig
from tools.train_tiny.tokenizer import build_tokenizer


@dataclass(frozen=True)
class Hidden:
    """A batch with some positions hidden, and what the model says about these."""

    logits: Tensor
    """[hidden, vocab], in the order of ``positions``"""
    positions: Tensor
    """bool [batch, length]"""
    weight: Tensor
    """float32 [batch, length]: of each position's loss"""


class Trainer(ABC):
    """Holds all state of a run; ``save`` and ``load`` make a run resumable exactly."""

    name: ClassVar[str]
    """Of the model that is made."""
    block_causal: ClassVar[int | None] = None
    """Length of the blocks that attention is causal between, if it is."""

    def __init__(self, config: TrainConfig, device: str, compiled: bool) -> None:
        self.config, self.device = config, device
        self.tokenizer = build_tokenizer()
        self.mask_id, self.eos_id = self.tokenizer.mask_token_id, self.tokenizer.eos_token_id
        self.model = self.make_model(compiled).to(device)
        embeddings = {id(m.weight) for m in self.model.modules() if isinstance(m, nn.Embedding)}
        matrices = [p for p in self.model.parameters() if p.dim() == 2 and id(p) not in embeddings]
        others = [p for p in self.model.parameters() if all(p is not m for m in matrices)]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw")
            if config.bfloat16
            else Float32Muon(matrices),
            torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.batches = BatchMaker(self.tokenizer, config.seed, config.eos_weight, self.block_causal)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.step = 0

    @abstractmethod
    def make_model(self, compiled: bool) -> nn.Module:
        """Return the model at step 0; its ``config`` is a data class."""

    @abstractmethod
    def predict(self, batch: Batch, phase: Phase) -> Hidden:
        """Hide some of ``batch`` and run the model."""

    @abstractmethod
    def decode(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return the answers' ids, one token per step."""

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
        norm = (batch.weight * batch.maskable).sum()
        with self.autocast():
            hidden = self.predict(batch, phase)
        targets = batch.ids.to(self.device)[hidden.positions]
        entropy = F.cross_entropy(hidden.logits.float(), targets, reduction="none")
        loss = (entropy * hidden.weight[hidden.positions]).sum() / norm
        real = batch.weight.to(self.device)[hidden.positions] == 1.0
        return loss, entropy.detach()[real].mean().item()

    def autocast(self) -> torch.autocast:
        """The precision of forwards."""
        enabled = self.config.bfloat16
        return torch.autocast(self.device, dtype=torch.bfloat16, enabled=enabled)

    def score(self, count: int) -> dict[str, float]:
        """Return the share of unseen problems solved per task, one token per step."""
        scores = {}
        for name, task in TASKS.items():
            problems = make_problems(task, "test", count, seed=1)
            prompts = [self.tokenizer(p.prompt).input_ids for p in problems]
            with self.autocast():
                answers = self.decode(prompts)
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
        sizes: Any = self.model.config
        facts = {
            "model": self.name,
            "step": self.step,
            "model_config": asdict(sizes),
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
