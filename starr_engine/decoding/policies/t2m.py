"""T2M remasking: a static threshold that takes back tokens the model has come to doubt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Final

import torch
from torch import Tensor

from starr_engine.decoding.base import BlockView, Decision, PolicyDefaults, State
from starr_engine.decoding.policies.checks import check_count, check_unit_interval
from starr_engine.decoding.policies.ranking import take_best
from starr_engine.errors import RequestError

PUBLISHED_THRESHOLDS: Final[Mapping[str, float]] = MappingProxyType(
    {"low_prob": 0.5, "t2t_remask": 0.9, "logit_diff": 0.3}
)
"""By strategy."""

_UNKNOWN: Final = -1.0
"""In place of the probability before the block's first step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class T2mPolicy(PolicyDefaults):
    """Unmask ``{i : c_i >= threshold}``, and mask doubted tokens of the block again; **revocable**.

    With p_i the distribution at token x_i, scored at every step, and r the ``remask_threshold``,
    a token is doubted by one of three strategies:

        "low_prob"      p_i(x_i) < r                        least p_i(x_i) first
        "t2t_remask"    max p_i > r, and not that of x_i    largest max p_i first
        "logit_diff"    |p_i(x_i) - that of the step before| > r       largest difference first

    A position is masked again at most ``max_resets`` times, and at a step at most
    max(1, floor(``max_share`` * tokens of the block)), leftmost among equals.

    The authors patch the editing of tokens in LLaDA2.1 this way and go on for up to 16 steps after
    a block has no mask left. Here a full block is final at once, the last step's revocations
    included.

    A fixed token, which is not scored, counts among the block's tokens and is never doubted.

    State: 12 bytes a position.

    Source:
        arXiv 2604.18738 and 2605.26436, and the code of synsis/remasked_DLM: strategies,
        thresholds, 5 resets (its comments say 3, its README uses .1 for low_prob), a quarter per
        step. ``threshold`` is LLaDA2.1's in its quality mode; its speed mode has .5.

    Raises:
        RequestError: If an argument is out of range.
    """

    scores_unmasked: ClassVar[bool] = True

    threshold: float = 0.7
    """Least confidence of a mask to unmask."""

    strategy: str = "low_prob"
    """How a token is doubted: "low_prob", "t2t_remask" or "logit_diff"."""

    remask_threshold: float | None = None
    """r; None is the strategy's own: .5, .9 or .3."""

    max_resets: int = 5
    """Revocations of one position."""

    max_share: float = 0.25
    """Of the block's tokens that one step may mask again, though always one."""

    def __post_init__(self) -> None:
        if self.strategy not in PUBLISHED_THRESHOLDS:
            names = ", ".join(PUBLISHED_THRESHOLDS)
            raise RequestError(f"strategy must be one of {names}; got {self.strategy!r}")
        check_unit_interval(self, "threshold", upper=2.0)
        if self.remask_threshold is not None:
            check_unit_interval(self, "remask_threshold")
        check_unit_interval(self, "max_share")
        check_count(self, "max_resets", least=0)

    def init_state(self, rows: int, block_length: int, device: torch.device) -> State:
        """No probability known, no reset."""
        shape = (rows, block_length)
        return {
            "last": torch.full(shape, _UNKNOWN, device=device),
            "resets": torch.zeros(shape, dtype=torch.int64, device=device),
        }

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        """See the class."""
        doubted, doubt = self._doubt(view, state["last"])
        may = doubted & ~view.masked & (state["resets"] < self.max_resets)
        quota = ((~view.masked).sum(1) * self.max_share).long().clamp_min(1)
        revoke = take_best(doubt, may, quota)
        return (
            Decision(
                unmask=view.masked & (view.confidence >= self.threshold),
                revoke=revoke,
                signals={
                    "threshold": torch.full_like(view.confidence[:, :1], self.threshold),
                    "doubt": doubt.float(),
                },
            ),
            {"last": view.confidence, "resets": state["resets"] + revoke},
        )

    def _doubt(self, view: BlockView, last: Tensor) -> tuple[Tensor, Tensor]:
        """Who is doubted, and how much."""
        limit = self.remask_threshold
        limit = PUBLISHED_THRESHOLDS[self.strategy] if limit is None else limit
        if self.strategy == "low_prob":
            # In float64, because in float32 the difference to 1 is the same for many of the least.
            return view.confidence < limit, 1.0 - view.confidence.double()
        if self.strategy == "t2t_remask":
            return (view.top1 > limit) & (view.confidence < view.top1), view.top1
        change = torch.where(last == _UNKNOWN, 0.0, (view.confidence - last).abs())
        return change > limit, change
