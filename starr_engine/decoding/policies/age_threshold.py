"""CadLLM's threshold: it falls with every step that a block takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from starr_engine.decoding.base import BlockView, Decision, State, StatelessPolicy
from starr_engine.decoding.policies.checks import check_count, check_unit_interval
from starr_engine.errors import RequestError


@dataclass(frozen=True, slots=True, kw_only=True)
class AgeThresholdPolicy(StatelessPolicy):
    """Unmask ``{i : c_i >= tau_k}`` with a threshold that falls from step to step of the block.

        tau_k = threshold + (end - threshold) * min(1, k / num_steps)

    The part of CadLLM that is a remasking rule. Its other parts, block length, number of steps and
    vocabulary from the mean confidence, are not here; its confidences are of a softmax over the
    best tokens alone and so larger, which makes 0.85 stricter here than there.

    Source:
        CadLLM, arXiv 2512.07173, code for Dream and an independent port; read there. Defaults are
        those of LLaDA on GSM8K, first block. The paper's text lets the threshold fall over the
        whole canvas instead.

    Raises:
        RequestError: If an argument is out of range, or ``end`` exceeds ``threshold``.
    """

    threshold: float = 0.85
    """At the first step of a block."""

    end: float = 0.4
    """From step ``num_steps`` on."""

    num_steps: int = 24

    def __post_init__(self) -> None:
        check_unit_interval(self, "threshold", "end", upper=2.0)
        check_count(self, "num_steps")
        if self.end > self.threshold:
            raise RequestError(f"end must not exceed threshold: {self.end} > {self.threshold}")

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        """See the class."""
        age = (view.step / self.num_steps).clamp_max(1.0)
        threshold = torch.lerp(
            torch.full_like(age, self.threshold), torch.full_like(age, self.end), age
        )[:, None]
        unmask = view.masked & (view.confidence >= threshold)
        return Decision(unmask=unmask, signals={"threshold": threshold}), state
