"""What is trained when: everything that decides the weights, in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True)
class Phase:
    """A stretch of steps with one mix of tasks."""

    until_step: int
    """The first step that is no longer in the phase."""
    short_share: float
    """Share of examples with a canvas of one block where the answer fits."""
    matrix_lr: float
    """Muon's rate for the hidden matrices (scaled to AdamW's update size)."""
    other_lr: float
    """AdamW's rate for embeddings and norms."""
    weight_decay: float
    """Of the hidden matrices."""
    chain_share: float
    """Share of word problems whose computed numbers are hidden together; see ``hide``."""
    mix: Mapping[str, float]
    """Probability of each kind of batch; need not sum to 1."""


def _phase(
    until_step: int,
    short_share: float,
    matrix_lr: float,
    other_lr: float,
    weight_decay: float,
    chain_share: float,
    **mix: float,
) -> Phase:
    shares = MappingProxyType(mix)
    return Phase(until_step, short_share, matrix_lr, other_lr, weight_decay, chain_share, shares)


_PHASES: Final = (
    # High rates until copying appears (step 200), then moderate ones: kept high, attention
    # saturates and the skill is lost again.
    _phase(
        200, 1.0, 0.01, 0.003, 0.02, 0.0,
        copy=3.0, lookup=3.0, facts=1.0, sorting=1.0, json_extraction=1.0,
    ),
    _phase(
        400, 1.0, 0.004, 0.002, 0.1, 0.0,
        copy=2.0, lookup=2.0, facts=1.0, small_sorting=1.0, sorting=0.5, json_extraction=1.0,
    ),
    _phase(
        1200, 0.85, 0.004, 0.002, 0.1, 0.0,
        copy=0.5, lookup=0.7, facts=1.0, small_sorting=1.0, sorting=1.0, json_extraction=1.2,
        code=1.2, word_problems=1.8,
    ),
    # JSON and code are nearly learnt, sorting lags behind
    _phase(
        1900, 0.85, 0.003, 0.0015, 0.1, 0.0,
        copy=0.2, lookup=0.4, facts=1.2, bare_sorting=1.8, sorting=1.2, json_extraction=0.7,
        code=0.7, word_problems=1.8,
    ),
    # the facts are known, but not used in worked steps
    _phase(
        2200, 0.85, 0.003, 0.0015, 0.1, 0.5,
        lookup=0.1, facts=0.5, bare_sorting=1.6, sorting=1.4, json_extraction=0.6, code=0.6,
        word_problems=2.4,
    ),
    # the losses jump up and down from one hundred steps to the next: anneal
    _phase(
        3400, 0.5, 0.0018, 0.001, 0.1, 0.5,
        facts=0.4, bare_sorting=0.9, sorting=1.9, json_extraction=0.9, code=0.6,
        word_problems=2.6,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a run."""

    steps: int = 3400
    seed: int = 0
    micro_batches: int = 4
    micro_batch_positions: int = 900
    warmup_steps: int = 100
    decay_steps: int = 1200
    """Last steps, in which the rates fall linearly to zero."""
    eos_weight: float = 0.1
    mimetic: float = 0.7
    phases: tuple[Phase, ...] = _PHASES

    def rate(self, step: int) -> float:
        """Return the learning rate of ``step`` as a share of its maximum."""
        warmup = min(1.0, (step + 1) / self.warmup_steps)
        left = (self.steps - step) / self.decay_steps
        return max(0.0, min(warmup, left))

    def phase(self, step: int) -> Phase:
        """Return the phase that ``step`` belongs to."""
        return next((p for p in self.phases if step < p.until_step), self.phases[-1])
