"""How far the scoring of an answer has come."""

from __future__ import annotations

import math
from dataclasses import dataclass

from starr_engine.study.likelihood.masks import WeightedMask
from starr_engine.study.likelihood.probes import Block, ProbeResult


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerScore:
    """What a model makes of one answer."""

    log_likelihood: float
    """The bound, in nats."""

    is_greedy: bool | None
    """Whether greedy decoding, one token per step, writes this answer; None if not asked for."""

    forwards: int


class AnswerProgress:
    """One answer.

    Args:
        index: Of its question.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self.is_greedy = True
        """Until a block shows that it is not."""

        self._blocks: list[BlockProgress] = []

    def add(self, block: BlockProgress) -> None:
        """Add a block, in order."""
        self._blocks.append(block)

    def first_masks(self) -> list[tuple[BlockProgress, WeightedMask]]:
        """What the bound needs."""
        return [(block, mask) for block in self._blocks for mask in block.masks]

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to run."""
        return all(block.is_done for block in self._blocks)

    def score(self, *, has_greedy: bool) -> AnswerScore:
        """The result, once it is done."""
        return AnswerScore(
            log_likelihood=math.fsum(block.total for block in self._blocks),
            is_greedy=self.is_greedy if has_greedy else None,
            forwards=sum(block.forwards for block in self._blocks),
        )


class BlockProgress:
    """One block of an answer: first its bound, then whether greedy decoding writes it.

    The greedy check takes an answer's blocks apart: where all earlier tokens are the answer's, a
    block is decoded behind them; where one is not, the answer is not greedy anyway.

    Args:
        answer: Whose block it is.
        block: Its tokens.
        masks: Of its bound.
        check_greedy: False ends with the bound.
    """

    def __init__(
        self, answer: AnswerProgress, block: Block, masks: list[WeightedMask], *, check_greedy: bool
    ) -> None:
        self.answer = answer
        self.block = block
        self.masks = masks
        self.total = 0.0
        self.forwards = 0
        self._num_missing = len(masks)
        self._known: dict[tuple[int, ...], tuple[int, bool]] = {}
        self._left = tuple(range(len(block.tokens))) if check_greedy else ()

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to run."""
        return not self._num_missing and not (self._left and self.answer.is_greedy)

    def note(self, mask: WeightedMask, result: ProbeResult) -> None:
        """Take the result of a mask of the bound, or of :meth:`next_greedy_mask`."""
        self.forwards += result.forwards
        self._known[mask.positions] = mask.positions[result.surest], result.surest_is_right
        if self._num_missing:
            self._num_missing -= 1
            self.total += mask.weight * result.log_likelihood

    def next_greedy_mask(self) -> WeightedMask | None:
        """What decoding has left at the first step that is not known; None if nothing is to run."""
        if self._num_missing:
            return None
        while self._left and self.answer.is_greedy:
            if self._left not in self._known:
                return WeightedMask(positions=self._left, weight=0.0)
            surest, is_right = self._known[self._left]
            self.answer.is_greedy = is_right
            self._left = tuple(at for at in self._left if at != surest)
        return None
