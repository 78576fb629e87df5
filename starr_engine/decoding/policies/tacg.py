"""TACG: guidance away from the past's average, and a gate for candidates that have lasted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

from starr_engine.decoding.base import BlockView, Decision, PolicyDefaults, State
from starr_engine.decoding.policies.checks import (
    check_count,
    check_not_negative,
    check_switch,
    check_unit_interval,
)
from starr_engine.decoding.policies.ranking import take_best
from starr_engine.decoding.policies.vocabulary import empty_vocabulary, is_empty, logits_of

_LEAST_LOGIT: Final = -1e4
"""Stands for -inf, of which guidance would make a NaN; its probability is 0 all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TacgPolicy(PolicyDefaults):
    """Unmask sure tokens and a few nearly sure ones whose probability is rising, once they last.

    With L_i the logits of mask i, E_i their average over the block's earlier steps (at the first
    step L_i itself), v_i and c_i candidate and confidence, M the masks:

        G_i     = E_i + (1 + guidance) * (L_i - E_i)
        b_i     = max(0, softmax(G_i)[v_i] - softmax(E_i)[v_i])
        score_i = c_i + bonus * b_i
        base    = {i in M : c_i > tau}
        extra   = the m best by score of {i in M : floor < c_i <= tau},
                  m = min(extra_max, ceil(extra_ratio * max(|base|, 1)));
                  none if base is empty and allow_empty_base is off
        chosen  = base and extra, or, if empty, the tokens_per_step best by score
        unmask  {i in chosen : streak_i >= min_streak or c_i >= escape},
                or, if empty, the best of chosen by score
        E_i     = decay * E_i + (1 - decay) * L_i

    ``streak_i`` counts the steps, this one included, for which the candidate has been the same. The
    authors keep E and the streaks over all blocks, here they start with each block. Their variant
    that also asks for a calm distribution, as KLASS does, is not offered.

    State: 4 * V bytes a position for E, and 16. All in float32 (float64 at the authors'): b is a
    difference of probabilities that is compared with others, and 1e-6 does not change its rank.

    Source:
        TACG, arXiv 2607.03236, and the authors' code. Defaults are of its LLaDA settings, of which
        some have a range: guidance .3 to .38, bonus .05 to .1, floor .72 to .8, escape .95 to .96.

    Raises:
        RequestError: If an argument is out of range.
    """

    needs_logits: ClassVar[bool] = True

    tau: float = 0.9
    """Confidence above which a token is sure."""

    guidance: float = 0.3
    """w, the step beyond the present logits, away from their average."""

    decay: float = 0.95
    """rho, the weight of the past in the average."""

    bonus: float = 0.1
    """lambda, the weight of a rising probability in the score."""

    floor: float = 0.8
    """Confidence above which a token is nearly sure."""

    extra_ratio: float = 0.25
    """Nearly sure tokens for each sure one."""

    extra_max: int = 2
    """Most nearly sure tokens of a step."""

    allow_empty_base: bool = True
    """Whether nearly sure tokens may go where none is sure."""

    min_streak: int = 3
    """Steps for which a candidate must have lasted."""

    escape: float = 0.95
    """Confidence at which it need not have."""

    tokens_per_step: int = 1
    """Taken by score where nothing is sure or nearly sure."""

    def __post_init__(self) -> None:
        check_unit_interval(self, "tau", "floor", "escape", upper=2.0)
        check_unit_interval(self, "decay")
        check_not_negative(self, "guidance", "bonus", "extra_ratio")
        check_count(self, "extra_max", least=0)
        check_count(self, "min_streak", "tokens_per_step")
        check_switch(self, "allow_empty_base")

    def init_state(self, rows: int, block_length: int, device: torch.device) -> State:
        """Nothing seen."""
        shape = (rows, block_length)
        return {
            "average": empty_vocabulary(rows, block_length, device),
            "candidate": torch.full(shape, -1, dtype=torch.int64, device=device),
            "streak": torch.zeros(shape, dtype=torch.int64, device=device),
        }

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        """See the class."""
        logits = logits_of(view).clamp_min(_LEAST_LOGIT)
        average = logits if is_empty(state["average"]) else state["average"]
        streak = torch.where(view.candidates == state["candidate"], state["streak"], 0) + 1
        score = view.confidence + self.bonus * self._rise(logits, average, view.candidates)

        chosen = self._chosen(view, score)
        lasting = chosen & ((streak >= self.min_streak) | (view.confidence >= self.escape))
        unmask = torch.where(lasting.any(1, keepdim=True), lasting, take_best(score, chosen, 1))
        after = torch.lerp(logits, average, self.decay)
        return (
            Decision(unmask=unmask, signals={"score": score, "streak": streak}),
            {"average": after, "candidate": view.candidates, "streak": streak},
        )

    def _rise(self, logits: Tensor, average: Tensor, candidates: Tensor) -> Tensor:
        chosen = candidates[..., None]
        guided = torch.lerp(average, logits, 1.0 + self.guidance)
        ahead = guided.softmax(-1).gather(2, chosen) - average.softmax(-1).gather(2, chosen)
        return ahead[..., 0].clamp_min(0.0)

    def _chosen(self, view: BlockView, score: Tensor) -> Tensor:
        base = view.masked & (view.confidence > self.tau)
        near = view.masked & (view.confidence > self.floor) & ~base
        size = base.sum(1)
        quota = torch.ceil(self.extra_ratio * size.clamp_min(1)).clamp_max(self.extra_max)
        if not self.allow_empty_base:
            quota = quota * (size > 0)
        ready = base | take_best(score, near, quota)
        best = take_best(score, view.masked, self.tokens_per_step)
        return torch.where(ready.any(1, keepdim=True), ready, best)
