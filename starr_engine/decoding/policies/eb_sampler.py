"""EB-Sampler: as many tokens as a bound on their joint entropy allows."""

from __future__ import annotations

from dataclasses import dataclass

from starr_engine.decoding.base import BlockView, Decision, State, StatelessPolicy
from starr_engine.decoding.policies.checks import check_choice, check_not_negative
from starr_engine.decoding.policies.ranking import SCORES, best_first, take_leading


@dataclass(frozen=True, slots=True, kw_only=True)
class EbSamplerPolicy(StatelessPolicy):
    """Unmask the n best masks for the largest n whose entropies keep the bound.

    With H_(1), H_(2) ... the entropies (nats) of the masks in the order of their score,

        H_(1) + ... + H_(n) - max(H_(1) ... H_(n)) <= gamma

    which bounds what the n candidates can share. n = 1 always keeps it, so this rule needs no
    progress guarantee. The order comes from ``order_by``, the bound always from the entropies.

    Known from three re-implementations, which agree on the rule and differ in the default (0.1,
    0.01, 0.001), and from the paper's abstract; the authors' own code was not seen. Entropy is of
    the distribution without temperature.

    Source:
        Accelerated Sampling from Masked Diffusion Models via Entropy Bounded Unmasking,
        arXiv 2505.24857.

    Raises:
        RequestError: If an argument is out of range.
    """

    gamma: float = 0.1
    """Nats; 0 gives one token per step, but for masks of entropy 0."""

    order_by: str = "entropy"
    """Or "confidence" or "margin" (top-1 minus top-2 probability)."""

    def __post_init__(self) -> None:
        check_not_negative(self, "gamma")
        check_choice(self, "order_by", SCORES)

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        """See the class."""
        order = best_first(SCORES[self.order_by](view), view.masked)
        entropy = view.entropy.gather(1, order).double()
        shared = entropy.cumsum(1) - entropy.cummax(1).values
        return Decision(unmask=take_leading(order, shared <= self.gamma, view.masked)), state
