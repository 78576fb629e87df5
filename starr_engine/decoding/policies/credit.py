"""CreditDecoding: tokens that have led before get a credit on their logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from starr_engine.decoding.base import BlockView, Decision, PolicyDefaults, State
from starr_engine.decoding.policies.checks import check_not_negative, check_unit_interval
from starr_engine.decoding.policies.ranking import take_best
from starr_engine.decoding.policies.vocabulary import empty_vocabulary, is_empty, logits_of


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditPolicy(PolicyDefaults):
    """A static threshold on logits that remember which tokens led at earlier steps of the block.

    With C_i the credit of mask i over the vocabulary, 0 at first, a_i = arg-max p_i without noise:

        C_i       = decay * C_i
        C_i[a_i]  = C_i[a_i] + p_i[a_i] ** gamma
        l'_i      = l_i + alpha * log(1 + C_i)
        v_i       = arg-max l'_i  (of the noisy logits plus the same credit above temperature 0)
        c_i       = softmax(l'_i)[v_i]
        unmask {i : c_i >= threshold}, v_i being the token; if there is none, the best

    So both token and confidence differ from what the view shows.

    State: 4 * V bytes a position for C. At most one entry of a position becomes nonzero per step,
    so a sparse form would do; the dense one is simpler and lets rows be decided together. All in
    float32, as in the authors' code.

    Source:
        CreditDecoding, arXiv 2510.06133, as inclusionAI's dInfer has it, whose defaults these are.
        It runs with thresholds of .8 to .9. The paper's variant without parameters is known
        second-hand only and not offered.

    Raises:
        RequestError: If an argument is out of range.
    """

    needs_logits: ClassVar[bool] = True

    threshold: float = 0.9
    """Least confidence, with credit."""

    alpha: float = 0.7
    """Weight of the credit; 0 is the static threshold."""

    gamma: float = 0.2
    """Exponent of the leading probability; 0 credits every lead with 1."""

    decay: float = 0.8
    """beta, the share of the credit that a step leaves."""

    def __post_init__(self) -> None:
        check_unit_interval(self, "threshold", upper=2.0)
        check_not_negative(self, "alpha", "gamma")
        check_unit_interval(self, "decay")

    def init_state(self, rows: int, block_length: int, device: torch.device) -> State:
        """No credit."""
        return {"credit": empty_vocabulary(rows, block_length, device)}

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        """See the class."""
        logits = logits_of(view)
        old = state["credit"]
        credit = torch.zeros_like(logits) if is_empty(old) else self.decay * old
        leader = logits.argmax(-1, keepdim=True)
        # In float64, because float32 powers differ in their last bit with the place in a vector.
        earned = view.top1.double().pow(self.gamma).float() * view.masked
        credit.scatter_add_(2, leader, earned[..., None])

        boost = self.alpha * torch.log1p(credit)
        fused = logits + boost
        noisy = view.sampling_logits
        drawn = fused if noisy is None or noisy is logits else noisy + boost
        tokens = torch.where(view.masked, drawn.argmax(-1), view.candidates)
        confidence = fused.softmax(-1).gather(2, tokens[..., None])[..., 0]
        confidence = torch.where(view.masked, confidence, view.confidence)
        sure = view.masked & (confidence >= self.threshold)
        best = take_best(confidence, view.masked, 1)
        return (
            Decision(
                unmask=torch.where(sure.any(1, keepdim=True), sure, best),
                tokens=tokens,
                signals={
                    "threshold": torch.full_like(confidence[:, :1], self.threshold),
                    "confidence": confidence,
                },
            ),
            {"credit": credit},
        )
