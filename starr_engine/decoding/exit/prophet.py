"""Prophet: fill the block when the model's lead is large enough for the phase it is in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from starr_engine.decoding.base import BlockView
from starr_engine.decoding.exit.margin import mean_margin
from starr_engine.decoding.policies.checks import check_not_negative

_EARLY_ENDS: Final = 0.33
_MIDDLE_ENDS: Final = 0.67


@dataclass(frozen=True, slots=True, kw_only=True)
class ProphetRule:
    """Fill when the mean margin of the block's masks reaches the threshold of the progress.

        margin_i = logit of the first token - logit of the second
        exit if mean margin >= early   where progress < .33
                            >= middle  where progress < .67
                            >= late    elsewhere

    progress is the share of all positions to generate, of every block, that are unmasked.

    Differs from the authors' rule in its region: theirs looks at a few answer positions behind a
    planted text such as "The answer is", and fills the whole canvas. Here region and canvas are the
    active block, because later blocks are not scored under most caches; their progress counts
    steps of a fixed schedule, which gates do not have.

    Risk: without the planted text a re-test (LATCH, arXiv 2607.28166, second-hand) lost 17 to 69
    points on long reasoning.

    Source:
        Prophet, arXiv 2508.19982, and the authors' code; its mathematics runs had 8, 5 and 3.5
        (second-hand).

    Raises:
        RequestError: If a threshold is no finite number >= 0.
    """

    early: float = 7.5
    """Margin, in nats, in the first third."""

    middle: float = 5.0
    """In the second."""

    late: float = 2.5
    """In the last."""

    def __post_init__(self) -> None:
        check_not_negative(self, "early", "middle", "late")

    def decide(self, view: BlockView) -> Tensor:
        """See the class."""
        later = torch.where(view.progress < _MIDDLE_ENDS, self.middle, self.late)
        threshold = torch.where(view.progress < _EARLY_ENDS, self.early, later)
        return mean_margin(view) >= threshold
