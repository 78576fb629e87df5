"""Static threshold: unmask whatever the model is sure of."""

from __future__ import annotations

from dataclasses import dataclass

from starr_engine.decoding.base import BlockView, Decision, State, StatelessPolicy
from starr_engine.decoding.policies.checks import check_unit_interval


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdPolicy(StatelessPolicy):
    """Unmask ``{i : c_i >= threshold}``.

    Differs from the authors' code, which always unmasks the best position and compares the others
    with ``<``: the same positions, the progress guarantee standing in for the first.

    Source:
        Fast-dLLM, arXiv 2505.22618, "confidence-aware parallel decoding"; default 0.9.

    Raises:
        RequestError: If ``threshold`` is no probability.
    """

    threshold: float = 0.9
    """Least confidence; above 1 gives one token per step."""

    def __post_init__(self) -> None:
        check_unit_interval(self, "threshold", upper=2.0)

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        """See the class."""
        unmask = view.masked & (view.confidence >= self.threshold)
        threshold = view.confidence.new_full((len(unmask), 1), self.threshold)
        return Decision(unmask=unmask, signals={"threshold": threshold}), state
