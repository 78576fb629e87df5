"""KLASS: unmask what is confident and whose distribution has come to rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import torch

from starr_engine.decoding.base import BlockView, Decision, PolicyDefaults, State
from starr_engine.decoding.policies.checks import (
    check_count,
    check_not_negative,
    check_unit_interval,
)
from starr_engine.decoding.policies.ranking import take_best
from starr_engine.decoding.policies.vocabulary import empty_vocabulary, is_empty, logits_of

MAX_HISTORY: Final = 256
"""Steps; more than any block takes in practice."""

_TINY: Final = 1e-12
"""The authors' guard of the logarithm: a probability of 0 counts as this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KlassPolicy(PolicyDefaults):
    """Unmask ``{i : c_i > tau and the last history values of d_i are < epsilon}``, else the best k.

    With p_i the distribution of mask i and q_i that of the step before (0 at first):

        d_i = sum_v p_i(v) * (log(p_i(v) + 1e-12) - log(q_i(v) + 1e-12))

    and k = ``tokens_per_step``. So ``history + 1`` steps of a block pass before anything but the
    best k is unmasked. The authors keep q over the whole canvas, here it starts with each block:
    later blocks are not scored under most caches.

    State: 4 * V bytes a position for q, and 4 * ``history``. d is computed in float32 (float64 at
    the authors'): its error, about 1e-6, is far below any epsilon of use.

    Source:
        KLASS, arXiv 2511.05664, and the authors' code. Defaults are theirs for LLaDA on GSM8K;
        for MATH .6/.01, HumanEval .9/.01, MBPP .7/.01.

    Raises:
        RequestError: If an argument is out of range.
    """

    needs_logits: ClassVar[bool] = True

    tau: float = 0.6
    """Confidence above which a stable token is unmasked."""

    epsilon: float = 0.015
    """Divergence in nats below which a step counts as calm."""

    history: int = 2
    """Calm steps in a row that make a token stable."""

    tokens_per_step: int = 1
    """k: unmasked, the most confident first, when nothing is stable and confident."""

    def __post_init__(self) -> None:
        check_unit_interval(self, "tau", upper=2.0)
        check_not_negative(self, "epsilon")
        check_count(self, "history", most=MAX_HISTORY)
        check_count(self, "tokens_per_step")

    def init_state(self, rows: int, block_length: int, device: torch.device) -> State:
        """No distribution seen, no calm step."""
        ring = torch.full((rows, block_length, self.history), torch.inf, device=device)
        return {"previous": empty_vocabulary(rows, block_length, device), "divergences": ring}

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        """See the class."""
        now = logits_of(view).softmax(-1)
        # Of a distribution of zeros only the guard is left.
        before = _TINY if is_empty(state["previous"]) else state["previous"] + _TINY
        ratio = (now + _TINY).div_(before).log_()
        divergence = ratio.mul_(now).sum(-1)
        ring = torch.cat([state["divergences"][..., 1:], divergence[..., None]], dim=-1)
        stable = (ring < self.epsilon).all(-1)
        ready = view.masked & stable & (view.confidence > self.tau)
        best = take_best(view.confidence, view.masked, self.tokens_per_step)
        unmask = torch.where(ready.any(1, keepdim=True), ready, best)
        return (
            Decision(
                unmask=unmask,
                signals={
                    "threshold": torch.full_like(divergence[:, :1], self.tau),
                    "divergence": divergence,
                },
            ),
            {"previous": now, "divergences": ring},
        )
