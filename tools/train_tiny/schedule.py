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
    last_rate: float
    """Both rates fall linearly to this share of themselves over the phase."""
    chain_share: float
    """Share of word problems whose computed numbers are hidden together; see ``hide``."""
    mix: Mapping[str, float]
    """Probability of each kind of batch; need not sum to 1."""


def make_phase(
    until_step: int,
    short_share: float,
    matrix_lr: float,
    other_lr: float,
    weight_decay: float,
    last_rate: float,
    chain_share: float,
    **mix: float,
) -> Phase:
    """Return a phase whose mix is given by name."""
    rates = (matrix_lr, other_lr, weight_decay, last_rate)
    return Phase(until_step, short_share, *rates, chain_share, MappingProxyType(mix))


_PHASES: Final = (
    # High rates until copying appears (step 200), then moderate ones: kept high, attention
    # saturates and the skill is lost again.
    make_phase(
        200, 1.0, 0.01, 0.003, 0.02, 1.0, 0.0,
        copy=3.0, lookup=3.0, facts=1.0, sorting=1.0, json_extraction=1.0,
    ),
    make_phase(
        400, 1.0, 0.004, 0.002, 0.1, 1.0, 0.0,
        copy=2.0, lookup=2.0, facts=1.0, small_sorting=1.0, sorting=0.5, json_extraction=1.0,
    ),
    make_phase(
        1200, 0.85, 0.004, 0.002, 0.1, 1.0, 0.0,
        copy=0.5, lookup=0.7, facts=1.0, small_sorting=1.0, sorting=1.0, json_extraction=1.2,
        code=1.2, word_problems=1.8,
    ),
    # JSON and code are nearly learnt, sorting lags behind
    make_phase(
        1900, 0.85, 0.003, 0.0015, 0.1, 1.0, 0.0,
        copy=0.2, lookup=0.4, facts=1.2, bare_sorting=1.8, sorting=1.2, json_extraction=0.7,
        code=0.7, word_problems=1.8,
    ),
    # the facts are known, but not used in worked steps
    make_phase(
        2200, 0.85, 0.003, 0.0015, 0.1, 1.0, 0.5,
        lookup=0.1, facts=0.5, bare_sorting=1.6, sorting=1.4, json_extraction=0.6, code=0.6,
        word_problems=2.4,
    ),
    # the losses jump up and down from one hundred steps to the next: anneal
    make_phase(
        2500, 0.5, 0.0018, 0.001, 0.1, 0.75, 0.5,
        facts=0.4, bare_sorting=0.9, sorting=1.9, json_extraction=0.9, code=0.6,
        word_problems=2.6,
    ),
    # JSON and code are done
    make_phase(
        2600, 0.5, 0.00135, 0.00075, 0.1, 8 / 9, 0.5,
        facts=1.0, bare_sorting=1.2, sorting=2.0, json_extraction=0.3, code=0.25,
        word_problems=2.8,
    ),
    # lists of four and five numbers are within reach: the task is cut down to these
    make_phase(
        2700, 0.5, 0.0012, 0.001 * 2 / 3, 0.1, 7 / 8, 0.5,
        facts=1.0, bare_few=1.6, few=1.6, json_extraction=0.3, code=0.25,
        word_problems=2.8,
    ),
    # sums and differences are right in lines of their own and wrong in steps: bridge the two
    make_phase(
        2900, 0.6, 0.002, 0.001, 0.1, 1.0, 0.5,
        facts=0.3, steps=2.6, bare_few=1.0, few=1.3, json_extraction=0.3, code=0.25,
        word_problems=2.2,
    ),
    make_phase(
        3400, 0.4, 0.0018, 0.0009, 0.1, 0.0, 0.4,
        steps=0.7, bare_few=0.8, few=1.7, json_extraction=0.7, code=0.5, word_problems=2.8,
    ),
    # the tasks are learnt; longer chains, which no single forward can work out
    make_phase(
        4000, 0.4, 0.0018, 0.0009, 0.1, 1.0, 0.4,
        steps=0.2, bare_few=0.3, few=1.2, json_extraction=0.5, code=0.4, word_problems=0.8,
        chains=2.8,
    ),
    make_phase(
        4600, 0.4, 0.0018, 0.0009, 0.1, 0.0, 0.4,
        few=1.5, json_extraction=0.7, code=0.5, word_problems=1.0, chains=2.4,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a run; the defaults are those of tiny-llada."""

    steps: int = 4600
    seed: int = 0
    micro_batches: int = 4
    micro_batch_positions: int = 900
    warmup_steps: int = 100
    eos_weight: float = 0.1
    mimetic: float = 0.7
    bfloat16: bool = True
    phases: tuple[Phase, ...] = _PHASES

    def rate(self, step: int) -> float:
        """Return the learning rate of ``step`` as a share of its phase's rate."""
        index = self.phases.index(self.phase(step))
        start = self.phases[index - 1].until_step if index else 0
        phase = self.phases[index]
        passed = (step - start) / (phase.until_step - start)
        return min(1.0, (step + 1) / self.warmup_steps) * (1 - (1 - phase.last_rate) * passed)

    def phase(self, step: int) -> Phase:
        """Return the phase that ``step`` belongs to."""
        return next((p for p in self.phases if step < p.until_step), self.phases[-1])
