"""Dream's own default: every mask goes at a time of its own, drawn beforehand."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from starr_engine.decoding.base import BlockView, Decision, State, StatelessPolicy
from starr_engine.decoding.draws import uniform
from starr_engine.decoding.policies.checks import check_count, check_unit_interval
from starr_engine.decoding.policies.time_steps import time_steps


@dataclass(frozen=True, slots=True, kw_only=True)
class AncestralPolicy(StatelessPolicy):
    """Unmask at step k each mask with probability 1 - t_{k+1} / t_k, however sure it is.

    Times are linear, t_k = 1 - (1 - eps) * k / T with T = ``num_steps_per_block``, and at the last
    step all masks go. A mask is still one at time t with probability t, so that one number u from
    [0, 1) per position, drawn once, says when it goes: at the first step with t_{k+1} <= u. The
    distribution is the published one.

    A step at which no mask goes changes nothing, and is not taken: tokens are those of all T steps
    and forwards are fewer. T = None is the length of the block at hand.

    Adapted: Dream has no blocks, so its T counts the steps of the whole canvas; here the schedule
    starts anew in every block. Draws depend on the request's seed and the place alone, there on
    torch's global generator.

    Source:
        Dream 7B, arXiv 2508.15487, generation code, alg="origin", the default there with eps as
        here; read there. It samples the reverse process of masked diffusion, MDLM, arXiv
        2406.07524.

    Raises:
        RequestError: If an argument is out of range.
    """

    num_steps_per_block: int | None = None
    """T; None is the block length."""

    eps: float = 1e-3
    """The last time step."""

    def __post_init__(self) -> None:
        if self.num_steps_per_block is not None:
            check_count(self, "num_steps_per_block")
        check_unit_interval(self, "eps")

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        """See the class."""
        steps = self.num_steps_per_block or view.masked.shape[1]
        ends = time_steps(steps, self.eps, view.masked.device)[1:]
        draws = uniform(replace(view, step=torch.zeros_like(view.step)))
        # How many steps end too early for a position's draw; the last one takes what is left.
        due = (draws[..., None] < ends).sum(-1).clamp_max(steps - 1)
        now = due.masked_fill(~view.masked, steps).amin(1, keepdim=True)
        return Decision(unmask=view.masked & (due == now)), state
