"""Dream's schedule: a share of the masks per step, the surest first or drawn by how sure."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from starr_engine.decoding.base import BlockView, Decision, State, StatelessPolicy
from starr_engine.decoding.draws import uniform
from starr_engine.decoding.policies.checks import (
    check_choice,
    check_count,
    check_not_negative,
    check_unit_interval,
)
from starr_engine.decoding.policies.ranking import SCORES, take_best


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskgitPlusPolicy(StatelessPolicy):
    """Unmask the n masks with the largest score, n from linear time steps.

    With |M| masks left, T = ``num_steps_per_block`` and t_k = 1 - (1 - eps) * k / T:

        n = floor(|M| * (1 - t_{k+1} / t_k))      at step k of the block, and |M| at the last

    With ``alg_temp`` above 0 the n masks are drawn without replacement from
    softmax(score / alg_temp), as the n largest of score / alg_temp + Gumbel noise: the same
    distribution in one pass.

    Fixed tokens are not in M, so in a block that has some the steps are smaller and not fewer,
    down to the one token that the progress guarantee unmasks. T = None is the length of the block
    at hand, fixed tokens and a short last block included.

    ``score`` makes it Dream's alg="maskgit_plus" (confidence), "topk_margin" or "entropy".

    Adapted: Dream has no blocks, so its T counts the steps of the whole canvas; here the schedule
    starts anew in every block. A step whose n is 0 is lost in Dream's code; here the progress
    guarantee unmasks one. Time steps are float64, there float32. Draws depend on the request
    alone, there on torch's global generator.

    Source:
        Dream 7B, arXiv 2508.15487, generation code; read there, defaults too. The name is that of
        MaskGIT, arXiv 2202.04200.

    Raises:
        RequestError: If an argument is out of range.
    """

    num_steps_per_block: int | None = None
    """T; None is the block length, which gives about one token per step."""

    eps: float = 1e-3
    """The last time step."""

    score: str = "confidence"
    """Or "margin" (top-1 minus top-2 probability) or "entropy" (the least first)."""

    alg_temp: float = 0.0
    """Temperature of the draw of positions; 0 takes the best."""

    def __post_init__(self) -> None:
        if self.num_steps_per_block is not None:
            check_count(self, "num_steps_per_block")
        check_unit_interval(self, "eps")
        check_not_negative(self, "alg_temp")
        check_choice(self, "score", SCORES)

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        """See the class."""
        score = SCORES[self.score](view)
        if self.alg_temp > 0:
            score = score.double() / self.alg_temp + _gumbel(view)
        return Decision(unmask=take_best(score, view.masked, self._count(view))), state

    def _count(self, view: BlockView) -> Tensor:
        steps = self.num_steps_per_block or view.masked.shape[1]
        left = view.masked.sum(1)
        step = view.step.clamp_max(steps - 1).double()
        slope = (1 - self.eps) / steps
        share = 1 - (1 - slope * (step + 1)) / (1 - slope * step)
        return torch.where(view.step >= steps - 1, left, (left * share).floor().long())


def _gumbel(view: BlockView) -> Tensor:
    # Half a unit of the last bit keeps the draw away from 0, where the logarithm ends.
    return -torch.log(-torch.log(uniform(view).double() + 2.0**-25))
