"""The life of a position and of a block, and what a request counts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from starr_engine.params import SamplingParams
from starr_engine.request import Canvas, Request, RequestStatus

MASK = 9


def ints(*values: int) -> NDArray[np.int32]:
    return np.array(values, np.int32)


@pytest.fixture
def canvas() -> Canvas:
    """Prompt 1 2 3, then two blocks of two masks."""
    return Canvas(ints(1, 2, 3, *[MASK] * 4), block_length=2, mask_token_id=MASK)


def test_a_new_canvas_is_the_prompt_and_masks(canvas: Canvas) -> None:
    assert canvas.token_ids.tolist() == [1, 2, 3, MASK, MASK, MASK, MASK]
    assert canvas.token_ids.dtype == np.int32
    assert (canvas.length, canvas.prompt_len, canvas.num_blocks) == (7, 3, 2)
    assert (canvas.block_start, canvas.block_stop) == (3, 5)
    assert canvas.committed_ids.tolist() == []
    assert not canvas.is_block_done


def test_a_canvas_does_not_share_its_ids_with_the_caller() -> None:
    ids = ints(1, 2, 3, MASK)
    canvas = Canvas(ids, block_length=2, mask_token_id=MASK)
    ids[0] = 7
    assert canvas.token_ids[0] == 1


def test_blocks_are_committed_from_left_to_right(canvas: Canvas) -> None:
    canvas.unmask(ints(4), ints(5))
    assert not canvas.is_block_done
    assert canvas.active_block.tolist() == [MASK, 5]
    canvas.unmask(ints(3), ints(6))
    assert canvas.is_block_done
    canvas.commit_block()
    assert canvas.committed_ids.tolist() == [6, 5]
    assert (canvas.block_index, canvas.block_start, canvas.block_stop) == (1, 5, 7)
    assert not canvas.is_block_done
    canvas.unmask(ints(5, 6), ints(7, 8))
    canvas.commit_block()
    assert canvas.committed_ids.tolist() == [6, 5, 7, 8]
    assert canvas.block_index == canvas.num_blocks


def test_a_revoked_position_is_a_mask_again_and_can_be_unmasked_again(canvas: Canvas) -> None:
    canvas.unmask(ints(3, 4), ints(5, 6))
    canvas.revoke(ints(3))
    assert canvas.active_block.tolist() == [MASK, 6]
    canvas.unmask(ints(3), ints(7))
    assert canvas.active_block.tolist() == [7, 6]


@pytest.mark.parametrize(
    "act",
    [
        lambda canvas: canvas.unmask(ints(2), ints(5)),  # prompt
        lambda canvas: canvas.unmask(ints(5), ints(5)),  # behind the block
        lambda canvas: canvas.unmask(ints(4), ints(5)),  # no mask
        lambda canvas: canvas.unmask(ints(3), ints(MASK)),  # a mask is no token
        lambda canvas: canvas.revoke(ints(3)),  # a mask
        lambda canvas: canvas.revoke(ints(0)),  # prompt
        lambda canvas: canvas.commit_block(),  # masks left
    ],
)
def test_a_change_against_the_life_of_a_position_is_refused_and_changes_nothing(
    canvas: Canvas, act: Callable[[Canvas], None]
) -> None:
    canvas.unmask(ints(4), ints(6))
    before = canvas.token_ids.copy()
    with pytest.raises(AssertionError):
        act(canvas)
    assert canvas.token_ids.tolist() == before.tolist()
    assert canvas.block_index == 0


def test_a_committed_token_cannot_be_revoked(canvas: Canvas) -> None:
    canvas.unmask(ints(3, 4), ints(5, 6))
    canvas.commit_block()
    with pytest.raises(AssertionError):
        canvas.revoke(ints(3))


def test_a_request_counts_forwards_rows_and_steps_since_refresh_and_block_start() -> None:
    request = Request("a", ints(1), SamplingParams(max_tokens=4, block_length=2), MASK)
    assert request.status is RequestStatus.WAITING
    counts = []
    for rows, is_refresh in [(5, True), (2, False), (2, False), (5, True)]:
        request.count_forward(rows, is_refresh=is_refresh)
        counts.append((request.steps_in_block, request.steps_since_refresh))
    assert counts == [(1, 1), (2, 2), (3, 3), (4, 1)]
    assert (request.num_forwards, request.computed_rows) == (4, 14)
    request.canvas.unmask(ints(1, 2), ints(5, 6))
    request.commit_block()
    assert (request.steps_in_block, request.num_forwards) == (0, 4)
