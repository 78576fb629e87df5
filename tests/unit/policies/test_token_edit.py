"""Token editing against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from starr_engine.decoding.base import BlockView, State
from starr_engine.decoding.policies.token_edit import TokenEditPolicy
from starr_engine.errors import RequestError
from tests.helpers.policy_views import view

CPU = torch.device("cpu")
M, T = True, False


def look(masked: list[bool], proposals: list[int], confidence: list[float]) -> BlockView:
    """Tokens are 0, 1, 2 ... where they stand; a mask's candidate is what is proposed."""
    given = view(confidence, masked=masked, candidates=[
        proposed if is_mask else at
        for at, (is_mask, proposed) in enumerate(zip(masked, proposals, strict=True))
    ])  # fmt: skip
    return replace(
        given,
        proposals=torch.tensor([proposals]),
        proposal_confidence=torch.tensor([confidence]),
    )


def decide(
    policy: TokenEditPolicy, given: BlockView, state: State | None = None
) -> tuple[list[int], list[int], bool, State]:
    """Offsets unmasked, offsets edited, whether the block is held, and the state after it."""
    length = given.masked.shape[1]
    decision, after = policy.decide(given, state or policy.init_state(1, length, CPU))
    assert decision.edit is not None
    assert decision.hold is not None
    unmask, edit = decision.unmask[0].nonzero(), decision.edit[0].nonzero()
    return unmask[:, 0].tolist(), edit[:, 0].tolist(), bool(decision.hold[0]), after


def test_masks_and_tokens_have_a_threshold_each_and_both_must_be_exceeded() -> None:
    given = look([M, M, M, T, T, T], [9, 9, 9, 9, 9, 5], [0.75, 0.7, 0.9, 0.51, 0.5, 0.9])
    policy = TokenEditPolicy(threshold=0.7, edit_threshold=0.5)
    # Of the masks .7 is not above .7; of the tokens .5 is not above .5, and 5 stands there already.
    assert decide(policy, given)[:3] == ([0, 2], [3], True)


def test_at_least_so_many_masks_go_the_best_of_them() -> None:
    given = look([M, M, M, M], [9, 9, 9, 9], [0.2, 0.8, 0.3, 0.3])
    assert decide(TokenEditPolicy(tokens_per_step=1), given)[0] == [1]
    assert decide(TokenEditPolicy(tokens_per_step=3), given)[0] == [1, 2, 3]
    assert decide(TokenEditPolicy(threshold=0.25, tokens_per_step=2), given)[0] == [1, 2, 3]


def test_a_full_block_is_held_until_nothing_is_edited_or_the_steps_are_used_up() -> None:
    busy, quiet = look([T, T], [9, 1], [0.9, 0.9]), look([T, T], [0, 1], [0.9, 0.9])
    policy = TokenEditPolicy(max_post_steps=2)
    *_, hold, state = decide(policy, look([M, T], [9, 1], [0.9, 0.9]))
    assert hold  # there is to be a post step, which may edit
    _, edit, hold, after = decide(policy, busy, state)
    assert (edit, hold) == ([0], True)
    _, edit, hold, _ = decide(policy, busy, after)
    assert (edit, hold) == ([0], False)  # the second and last
    _, edit, hold, _ = decide(policy, quiet, state)
    assert (edit, hold) == ([], False)


def test_without_post_steps_or_without_editing_no_block_is_held() -> None:
    given = look([M, T], [9, 9], [0.9, 0.9])
    _, edit, hold, _ = decide(TokenEditPolicy(max_post_steps=0), given)
    assert (edit, hold) == ([1], False)
    _, edit, hold, _ = decide(TokenEditPolicy(edit_threshold=None), given)
    assert (edit, hold) == ([], False)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"threshold": -0.1}, r"threshold must be a number in \[0, 2\]"),
        ({"edit_threshold": "no"}, r"edit_threshold must be a number in \[0, 2\]"),
        ({"max_post_steps": 65}, "max_post_steps must be an integer from 0 to 64"),
        ({"tokens_per_step": 0}, "tokens_per_step must be an integer >= 1"),
    ],
)
def test_an_argument_out_of_range_is_refused(args: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        TokenEditPolicy(**args)
