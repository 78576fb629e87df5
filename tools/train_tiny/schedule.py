"""What is trained when: everything that decides the weights, in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True)
class Phase:
    """A stretch of steps with one mix of tasks."""

    until: float
    """End of the phase as a share of all steps."""
    mix: Mapping[str, float]
    """Probability of each kind of batch; need not sum to 1."""
    short_share: float
    """Share of examples with a canvas of one block where the answer fits."""


_CURRICULUM: Final = MappingProxyType(
    {"copy": 3.0, "lookup": 3.0, "facts": 1.0, "sorting": 1.0, "json_extraction": 1.0}
)
_ALL: Final = MappingProxyType(
    {
        "copy": 0.3,
        "lookup": 0.5,
        "facts": 1.2,
        "sorting": 1.5,
        "json_extraction": 1.5,
        "code": 1.5,
        "word_problems": 2.0,
    }
)
_FINAL: Final = MappingProxyType(
    {"facts": 0.6, "sorting": 1.2, "json_extraction": 1.0, "code": 1.2, "word_problems": 2.5}
)


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a run."""

    steps: int = 6800
    seed: int = 0
    micro_batches: int = 4
    micro_batch_positions: int = 900
    matrix_lr: float = 0.01
    """Muon's rate for the hidden matrices (scaled to AdamW's update size)."""
    other_lr: float = 0.003
    """AdamW's rate for embeddings and norms."""
    weight_decay: float = 0.02
    warmup_steps: int = 100
    decay_share: float = 0.25
    """Last share of the steps, in which the rates fall linearly to zero."""
    eos_weight: float = 0.1
    mimetic: float = 0.7
    phases: tuple[Phase, ...] = field(
        default=(
            Phase(0.06, _CURRICULUM, 1.0),
            Phase(0.75, _ALL, 0.85),
            Phase(1.0, _FINAL, 0.5),
        )
    )

    def rate(self, step: int) -> float:
        """Return the learning rate of ``step`` as a share of its maximum."""
        warmup = min(1.0, (step + 1) / self.warmup_steps)
        left = (self.steps - step) / (self.decay_share * self.steps)
        return max(0.0, min(warmup, left))

    def phase(self, step: int) -> Phase:
        """Return the phase that ``step`` belongs to."""
        return next(p for p in self.phases if step < p.until * self.steps or p is self.phases[-1])
