"""Dream's schedule: a share of the masks per step, the surest first or drawn by how sure."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from starr_engine.decoding.base import BlockView, Decision, PolicyDefaults, State
from starr_engine.decoding.draws import uniform
from starr_engine.decoding.policies.checks import (
    check_choice,
    check_count,
    check_not_negative,
    check_unit_interval,
)
from starr_engine.decoding.policies.ranking import SCORES, take_best
from starr_engine.decoding.policies.time_steps import time_steps


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskgitPlusPolicy(PolicyDefaults):
    """Unmask the n masks with the largest score, n from linear time steps.

    With |M| masks left, T = ``num_steps_per_block`` and t_k = 1 - (1 - eps) * k / T:

        n = floor(|M| * (1 - t_{k+1} / t_k))      at step k of the block, and |M| at the last

    With ``alg_temp`` above 0 the n masks are drawn without replacement from
    softmax(score / alg_temp), as the n largest of score / alg_temp + Gumbel noise: the same
    distribution in one pass.

    A step whose n is 0 changes nothing, and is not taken: tokens are those of all T steps and
    forwards are fewer. Fixed tokens are not in M, so in a block with some the steps are smaller.
    T = None is the length of the block at hand, fixed tokens and a short last block included.

    ``score`` makes it Dream's alg="maskgit_plus" (confidence), "topk_margin" or "entropy".

    Adapted: Dream has no blocks, so its T counts the steps of the whole canvas; here the schedule
    starts anew in every block. Draws depend on the request alone, there on torch's global
    generator. Scores are of the model's distribution; with a temperature or a nucleus Dream's are
    of what these leave of it.

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

    def init_state(self, rows: int, block_length: int, device: torch.device) -> State:
        """The time step that each row has come to."""
        return {"time": torch.zeros(rows, dtype=torch.int64, device=device)}

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        """See the class."""
        score = SCORES[self.score](view)
        if self.alg_temp > 0:
            score = score.double() / self.alg_temp + _gumbel(view)
        count, time = self._next_step(view, state["time"])
        return Decision(unmask=take_best(score, view.masked, count)), {"time": time + 1}

    def _next_step(self, view: BlockView, time: Tensor) -> tuple[Tensor, Tensor]:
        """How many masks go, int64 [n], and the number of the step, the first at which some do."""
        steps = self.num_steps_per_block or view.masked.shape[1]
        times = time_steps(steps, self.eps, view.masked.device)
        left = view.masked.sum(1, keepdim=True)
        counts = (left * (1 - times[1:] / times[:-1])).long()
        counts[:, -1:] = left
        numbers = torch.arange(steps, device=time.device)
        # Whatever comes behind the last step, such as tokens to replace, is a last step too.
        may = (numbers >= time.clamp_max(steps - 1)[:, None]) & ((counts > 0) | (left == 0))
        chosen = torch.where(may, numbers, steps - 1).amin(1)
        return counts.gather(1, chosen[:, None])[:, 0], chosen


def _gumbel(view: BlockView) -> Tensor:
    # Half a unit of the last bit keeps the draw away from 0, where the logarithm ends.
    return -torch.log(-torch.log(uniform(view).double() + 2.0**-25))
