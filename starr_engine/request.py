"""One request and its canvas: the state machine of a position and of a block.

A position is masked -> unmasked -> (revoked -> unmasked)* -> committed; a block is committed when
no mask is left in it.
"""

from __future__ import annotations

import time
from enum import IntEnum

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

        canvas     |<- prompt ->|<- committed ->|<- active block ->|<- masked rest ->|
        positions  0        prompt_len     block_start        block_stop         length

    Args:
        prompt_token_ids: At least one id, none of them the mask.
        max_tokens: Masks to append; a multiple of ``block_length``.
        block_length: Positions denoised together.
        mask_token_id: From the checkpoint's configuration.
    """

    def __init__(
        self, prompt_token_ids: TokenIds, *, max_tokens: int, block_length: int, mask_token_id: int
    ) -> None:
        self.prompt_len = len(prompt_token_ids)
        self.block_length = block_length
        self.num_blocks = max_tokens // block_length
        self.mask_token_id = mask_token_id
        self.token_ids: TokenIds = np.full(self.prompt_len + max_tokens, mask_token_id, np.int32)
        self.token_ids[: self.prompt_len] = prompt_token_ids
        self.block_index = 0
        """The active block; equals ``num_blocks`` when all are committed."""

    @property
    def length(self) -> int:
        """Rows of the canvas: prompt and ``max_tokens``."""
        return len(self.token_ids)

    @property
    def block_start(self) -> int:
        """First position of the active block."""
        return self.prompt_len + self.block_index * self.block_length

    @property
    def block_stop(self) -> int:
        """First position behind the active block."""
        return self.block_start + self.block_length

    @property
    def active_block(self) -> TokenIds:
        """View of the active block's ids."""
        return self.token_ids[self.block_start : self.block_stop]

    @property
    def committed_ids(self) -> TokenIds:
        """View of the generated ids of all committed blocks."""
        return self.token_ids[self.prompt_len : self.block_start]

    @property
    def is_block_done(self) -> bool:
        """Whether the active block has no mask left."""
        return not bool((self.active_block == self.mask_token_id).any())

    def unmask(self, positions: Positions, token_ids: TokenIds) -> None:
        """Replace masks of the active block by tokens.

        Args:
            positions: [n] positions on the canvas, all masked.
            token_ids: [n], none of them the mask.
        """
        assert self._all_active(positions)
        assert (self.token_ids[positions] == self.mask_token_id).all()
        assert (token_ids != self.mask_token_id).all(), "a mask is no token to commit"
        self.token_ids[positions] = token_ids

    def revoke(self, positions: Positions) -> None:
        """Mask tokens of the active block again; ``positions`` [n] are all unmasked."""
        assert self._all_active(positions)
        assert (self.token_ids[positions] != self.mask_token_id).all()
        self.token_ids[positions] = self.mask_token_id

    def commit_block(self) -> None:
        """Make the active block final and open the next one."""
        assert self.is_block_done, "a block with masks cannot be committed"
        self.block_index += 1

    def _all_active(self, positions: Positions) -> bool:
        return bool(((positions >= self.block_start) & (positions < self.block_stop)).all())


class Request:
    """One user call: what was asked, its canvas, and what it has cost so far."""

    def __init__(
        self,
        request_id: str,
        prompt_token_ids: TokenIds,
        params: SamplingParams,
        mask_token_id: int,
    ) -> None:
        self.request_id = request_id
        self.params = params
        self.canvas = Canvas(
            prompt_token_ids,
            max_tokens=params.max_tokens,
            block_length=params.block_length,
            mask_token_id=mask_token_id,
        )
        self.status = RequestStatus.WAITING
        self.num_forwards = 0
        self.num_unmasked = 0
        self.computed_rows = 0
        self.steps_in_block = 0
        self.num_revoked_in_block = 0
        self.steps_since_refresh = 0
        self.logprobs: dict[int, TokenLogprob] = {}
        """By position on the canvas, of its last unmasking; empty unless asked for."""

        self.arrival_s = time.perf_counter()

    def count_forward(self, computed_rows: int, *, is_refresh: bool) -> None:
        """Account for one model forward in which this request took part."""
        self.num_forwards += 1
        self.computed_rows += computed_rows
        self.steps_in_block += 1
        self.steps_since_refresh = 1 if is_refresh else self.steps_since_refresh + 1

    def commit_block(self) -> None:
        """Commit the active block and start counting steps anew."""
        self.canvas.commit_block()
        self.steps_in_block = 0
        self.num_revoked_in_block = 0
