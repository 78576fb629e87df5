"""What decoding is told of each row, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from starr_engine.decoding.bad_words import BadWordGuard
from starr_engine.decoding.base import RemaskingPolicy
from starr_engine.decoding.carrying import CarriedRow
from starr_engine.decoding.exit.base import ExitRule
from starr_engine.decoding.noise import Noise
from starr_engine.decoding.stacking import RowState
from starr_engine.outputs import TokenLogprob
from starr_engine.trace import PositionTrace

Offsets = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodingRow:
    """The active block of one request, as far as decoding knows it."""

    policy: RemaskingPolicy

    state: RowState
    """Of this row alone, first dimension 1; as the last step left it."""

    block_ids: NDArray[np.int32]
    """[L] the block's tokens, masks included."""

    is_fixed: NDArray[np.bool_]
    """[L] tokens that were given with the request: no policy may revoke or edit them."""

    mask_token_id: int

    step: int
    """Denoising steps done in the block before this one."""

    num_left: int
    """Tokens in front of the block."""

    num_revoked: int
    """Revocations in this block so far."""

    num_unmasked: int
    """Positions to generate that are unmasked, of all blocks."""

    num_masks: int
    """Positions to generate, of all blocks."""

    seed: int

    score_offsets: Offsets
    """[m] offsets within the block that were scored, ascending; rows lie in order in ``Scores``."""

    shadow_offsets: Offsets | None = None
    """[s] offsets within the block whose shadow rows were scored, ascending; these scores lie in
    order behind all others. None if the policy does not need them."""

    noise: Noise | None = None
    """What sampling added to the row's logits."""

    exit_rule: ExitRule | None = None
    """When to fill the block at once; None never."""

    late_ids: tuple[int, ...] = ()
    """Candidates that wait for all others; see :mod:`starr_engine.decoding.eos_last`."""

    has_rules: bool = False
    """Whether options of the request changed the logits, and may have forbidden every token."""

    guard: BadWordGuard | None = None
    """What the positions of one step must not complete together."""

    num_held: int = 0
    """Steps after which this block was held although it had no mask left."""

    at_edge: bool = True
    """Whether all that stands in front of the block is final."""

    trace: bool = False
    """Whether the decision is to say how it came about."""

    carried: CarriedRow | None = None
    """What the step before makes of the row, if the host does not know it yet. Tokens and counts
    here are then those from before that step, and positions may be scored that are no masks any
    more; ``step`` counts it."""

    @property
    def num_shadows(self) -> int:
        """Shadow rows scored."""
        return 0 if self.shadow_offsets is None else len(self.shadow_offsets)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowDecision:
    """What changes in one row's block; offsets within the block, ascending."""

    unmask_offsets: Offsets
    unmask_ids: NDArray[np.int32]
    unmask_confidence: NDArray[np.float32]
    """Softmax probability of each of ``unmask_ids``, without noise."""

    revoke_offsets: Offsets

    edit_offsets: Offsets
    edit_ids: NDArray[np.int32]
    """What takes the place of the tokens at ``edit_offsets``."""

    edit_confidence: NDArray[np.float32]
    """As ``unmask_confidence``."""

    hold: bool
    """Whether the block stays open even if it has no mask left."""

    state: RowState
    trace: PositionTrace | None = None
    """Only for a row that asked for it."""

    logprobs: tuple[TokenLogprob, ...] = ()
    """Of ``unmask_ids`` and then ``edit_ids``, if the request asks for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFailure:
    """Why a row could not be decided; its request ends, the others go on."""

    reason: str


@dataclass(frozen=True, slots=True)
class Member:
    """A row of a group, and where its scores begin."""

    index: int
    row: DecodingRow
    first_score: int
    shadow_scores: slice
