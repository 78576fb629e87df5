"""LocalLeap: near a sure token a lower threshold is enough."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import max_pool1d

from starr_engine.decoding.base import BlockView, Decision, State, StatelessPolicy
from starr_engine.decoding.policies.checks import check_count, check_unit_interval
from starr_engine.errors import RequestError


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalLeapPolicy(StatelessPolicy):
    """Unmask every mask with c_i >= tau_i, and lower tau_i around anchors.

        anchors = {masks with c_i >= threshold}
        tau_i   = relaxed      for a mask at most ``radius`` positions from an anchor
                = threshold    elsewhere

    Anchors are masks of this step; tokens that stand already are none. Known from the rule as
    another paper's authors ship it (DAWN, arXiv 2602.06953) and from a summary; the authors' own
    code was not seen.

    Source:
        LocalLeap, arXiv 2510.07081; defaults 0.9, 0.75, 4 with blocks of 32.

    Raises:
        RequestError: If an argument is out of range, or ``relaxed`` exceeds ``threshold``.
    """

    threshold: float = 0.9
    relaxed: float = 0.75

    radius: int = 4
    """Positions on each side, within the block."""

    def __post_init__(self) -> None:
        check_unit_interval(self, "threshold", "relaxed", upper=2.0)
        check_count(self, "radius", least=0)
        if self.relaxed > self.threshold:
            raise RequestError(
                f"relaxed must not exceed threshold: {self.relaxed} > {self.threshold}"
            )

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        """See the class."""
        anchor = view.masked & (view.confidence >= self.threshold)
        reach = min(self.radius, view.masked.shape[1])
        near = max_pool1d(anchor.float(), 2 * reach + 1, stride=1, padding=reach) > 0
        threshold = torch.where(near, self.relaxed, self.threshold)
        unmask = view.masked & (view.confidence >= threshold)
        return Decision(unmask=unmask, signals={"threshold": threshold}), state
