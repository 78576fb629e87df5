"""One request and its canvas: the state machine of a position and of a block.

A position is masked -> unmasked -> (edited | revoked -> unmasked)* -> committed; a block is
committed when no mask is left in it and its remasking policy does not hold it.
"""

from __future__ import annotations

import time
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from starr_engine.outputs import TokenLogprob
from starr_engine.params import SamplingParams

TokenIds = NDArray[np.int32]
Positions = NDArray[np.int32]


class RequestStatus(IntEnum):
    """Where a request is in its life."""

    WAITING = 0
    RUNNING = 1
    FINISHED = 2


class Canvas:
    """The token ids of one request, prompt and masks included.

        canvas     |<- prompt ->|<- committed ->|<- active block ->|<- to come ->|<- suffix ->|
        positions  0        prompt_len     block_start        block_stop     region_stop   length

    The region, from the first mask to the last unless more is asked for, is cut into blocks; the
    last one is shorter if they do not divide it. Tokens that stand in the region from the beginning
    are fixed: they are never unmasked, revoked or edited. The suffix behind it is empty unless a
    template asks for one.

    Under a block-causal mask, blocks end at multiples of their length counted from position 0, as
    the mask's blocks do: the first one is shorter if the prompt reaches into it. What lies behind
    the mask block of the active block is seen by nobody yet, so it is not live. There is no suffix
    then: tokens behind the last mask belong to the region, whose blocks alone see them.

    Args:
        token_ids: The canvas as it begins, with at least one mask.
        block_length: Positions denoised together; a divisor of a block-causal mask's blocks.
        mask_token_id: From the checkpoint's configuration.
        mask_block: See ``ModelSpec.mask_block``.
        opens_block: See ``ModelSpec.opens_block``.
        logits_shift: How many rows in front of a position the row lies whose logits are its own:
            0 or 1.
        seeds_block: Whether the first position of a block has such a shift of 1.
        region_start: Where the region begins; None is the first mask.
    """

    def __init__(
        self,
        token_ids: TokenIds,
        *,
        block_length: int,
        mask_token_id: int,
        mask_block: int | None = None,
        opens_block: bool = False,
        logits_shift: int = 0,
        seeds_block: bool = False,
        region_start: int | None = None,
    ) -> None:
        self.token_ids: TokenIds = token_ids.copy()
        self.is_fixed: NDArray[np.bool_] = token_ids != mask_token_id
        """[length] whether the position held a token from the beginning."""

        masks = np.flatnonzero(~self.is_fixed)
        self.num_masks = len(masks)
        """Masks at the beginning: the tokens to generate."""

        self.prompt_len = int(masks[0]) if region_start is None else region_start
        self.region_stop = int(masks[-1]) + 1 if mask_block is None else len(token_ids)
        self.block_length = block_length
        self.mask_block = mask_block
        self.opens_block = opens_block
        self.logits_shift = logits_shift
        self.seeds_block = seeds_block
        has_edges = mask_block is not None and not opens_block
        self._first_edge = self.prompt_len - (self.prompt_len % block_length if has_edges else 0)
        self.num_blocks = -(-(self.region_stop - self._first_edge) // block_length)
        self.mask_token_id = mask_token_id
        self.block_index = 0
        """The active block; equals ``num_blocks`` when all are committed."""

        self.block_start = 0
        """First position of the active block; ``region_stop`` when all are committed."""

        self.block_stop = 0
        """First position behind the active block."""

        self.num_live = 0
        """Rows that exist for attention: all, or those up to the end of the active mask block."""

        self._place_block()

    @property
    def length(self) -> int:
        """Rows of the canvas: prompt, region and suffix."""
        return len(self.token_ids)

    @property
    def at_edge(self) -> bool:
        """Whether the active block begins where a mask block does, or there are none."""
        return self.mask_block is None or self.block_start % self.mask_block == 0

    def sources(self, positions: Positions) -> Positions:
        """[n] int32 rows whose logits are those of ``positions`` [n], in the same order."""
        if not (self.seeds_block or self.logits_shift):
            return positions
        shift = (positions == self.block_start) if self.seeds_block else self.logits_shift
        return (positions - shift).astype(np.int32)

    @property
    def active_block(self) -> TokenIds:
        """View of the active block's ids."""
        return self.token_ids[self.block_start : self.block_stop]

    @property
    def committed_ids(self) -> TokenIds:
        """View of the ids of all committed blocks, fixed ones among them."""
        return self.token_ids[self.prompt_len : self.block_start]

    @property
    def is_block_done(self) -> bool:
        """Whether the active block has no mask left."""
        return not bool((self.active_block == self.mask_token_id).any())

    def unmask(self, positions: Positions, token_ids: TokenIds) -> None:
        """Replace masks of the active block by tokens.

        Args:
            positions: [n] positions on the canvas, ascending, all masked.
            token_ids: [n], none of them the mask.
        """
        assert self._all_active(positions)
        assert (self.token_ids[positions] == self.mask_token_id).all()
        assert (token_ids != self.mask_token_id).all(), "a mask is no token to commit"
        self.token_ids[positions] = token_ids

    def revoke(self, positions: Positions) -> None:
        """Mask tokens of the active block again.

        Args:
            positions: [n] positions on the canvas, ascending, all unmasked and none fixed.
        """
        assert self._all_active(positions)
        assert not self.is_fixed[positions].any(), "a fixed token stays"
        assert (self.token_ids[positions] != self.mask_token_id).all()
        self.token_ids[positions] = self.mask_token_id

    def edit(self, positions: Positions, token_ids: TokenIds) -> None:
        """Put other tokens in the place of tokens of the active block.

        Args:
            positions: [n] positions on the canvas, ascending, all unmasked and none fixed.
            token_ids: [n], none of them the mask or what stands there.
        """
        assert self._all_active(positions)
        assert not self.is_fixed[positions].any(), "a fixed token stays"
        assert (self.token_ids[positions] != self.mask_token_id).all()
        assert (token_ids != self.mask_token_id).all(), "a mask is no token to commit"
        assert (self.token_ids[positions] != token_ids).all(), "an edit changes something"
        self.token_ids[positions] = token_ids

    def commit_block(self) -> None:
        """Make the active block final and open the next one that has a mask."""
        assert self.is_block_done, "a block with masks cannot be committed"
        self.block_index += 1
        self._place_block()
        while self.block_index < self.num_blocks and self.is_block_done:
            self.block_index += 1
            self._place_block()

    def _place_block(self) -> None:
        """Bounds of the block of ``block_index``: read far more often than it changes."""
        edge = self._first_edge + self.block_index * self.block_length
        self.block_start = min(max(edge, self.prompt_len), self.region_stop)
        self.block_stop = min(edge + self.block_length, self.region_stop)
        self.num_live = self.length
        if self.mask_block is not None:
            blocks = -(-self.block_stop // self.mask_block)
            self.num_live = min(blocks * self.mask_block, self.region_stop)

    def _all_active(self, positions: Positions) -> bool:
        return not len(positions) or (
            self.block_start <= positions[0] and positions[-1] < self.block_stop
        )


LEAST_CONFIDENCE: Final = float(np.finfo(np.float32).smallest_subnormal)
"""Stands for a probability that float32 rounds to 0, so that its logarithm stays a number."""


class Request:
    """One user call: what was asked, its canvas, and what it has cost so far.

    Args:
        request_id: Unique among unfinished requests.
        prompt_token_ids: Without masks.
        params: Of this request.
        mask_token_id: From the checkpoint's configuration.
        template: Ids behind the prompt, masks where a token is to be generated; None stands for
            ``max_tokens`` masks.
        mask_block: See :class:`Canvas`, like the next two.
        opens_block: As above.
        logits_shift: As above.
        seeds_block: As above.
        whole_template: Whether the canvas's region begins with the template and not with its first
            mask.
    """

    def __init__(
        self,
        request_id: str,
        prompt_token_ids: TokenIds,
        params: SamplingParams,
        mask_token_id: int,
        template: TokenIds | None = None,
        *,
        mask_block: int | None = None,
        opens_block: bool = False,
        logits_shift: int = 0,
        seeds_block: bool = False,
        whole_template: bool = False,
    ) -> None:
        self.request_id = request_id
        self.params = params
        self.has_template = template is not None
        rest = np.full(params.max_tokens, mask_token_id) if template is None else template
        assert params.block_length is not None, "resolved when the request was added"
        self.canvas = Canvas(
            np.concatenate([prompt_token_ids, rest]).astype(np.int32),
            block_length=params.block_length,
            mask_token_id=mask_token_id,
            mask_block=mask_block,
            opens_block=opens_block,
            logits_shift=logits_shift,
            seeds_block=seeds_block,
            region_start=len(prompt_token_ids) if whole_template else None,
        )
        self._log_confidence = np.zeros(self.canvas.length)
        self.status = RequestStatus.WAITING
        self.num_forwards = 0
        self.num_unmasked = 0
        self.num_edited = 0
        self.computed_rows = 0
        self.num_refreshes = 0
        self.refresh_rows = 0
        self.num_cached_tokens = 0
        self.num_preemptions = 0
        self.steps_in_block = 0
        self.num_revoked_in_block = 0
        self.num_held_in_block = 0
        self.steps_since_refresh = 0
        self.drift_since_refresh = 0.0
        self.logprobs: dict[int, TokenLogprob] = {}
        """By position on the canvas, of the token put there last; empty unless asked for."""

        self.arrival_s = time.perf_counter()

    def count_forward(self, computed_rows: int, *, is_refresh: bool) -> None:
        """Account for one model forward in which this request took part."""
        self.num_forwards += 1
        self.computed_rows += computed_rows
        self.steps_in_block += 1
        self.steps_since_refresh = 1 if is_refresh else self.steps_since_refresh + 1
        if is_refresh:
            self.num_refreshes += 1
            self.refresh_rows += computed_rows
            self.drift_since_refresh = 0.0

    def lose_pages(self) -> None:
        """Account for a preemption: nothing computed so far is there any more."""
        self.num_preemptions += 1
        self.steps_since_refresh = 0
        self.drift_since_refresh = 0.0

    def note_confidence(self, positions: Positions, confidence: NDArray[np.float32]) -> None:
        """Remember with which probabilities [n] the tokens at ``positions`` [n] were put there."""
        self._log_confidence[positions] = np.log(np.maximum(confidence, LEAST_CONFIDENCE))

    @property
    def mean_log_confidence(self) -> float | None:
        """Mean, over the generated tokens that stand, of the logarithm of their confidence."""
        canvas = self.canvas
        stands = ~canvas.is_fixed & (canvas.token_ids != canvas.mask_token_id)
        return float(self._log_confidence[stands].mean()) if stands.any() else None

    def commit_block(self) -> None:
        """Commit the active block and start counting steps anew."""
        self.canvas.commit_block()
        self.steps_in_block = 0
        self.num_revoked_in_block = 0
        self.num_held_in_block = 0
