"""WINO's rule against numbers worked out by hand, and how scores reach it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from starr_engine.decoding.base import BlockView, State
from starr_engine.decoding.decoder import decide_rows
from starr_engine.decoding.policies.wino import WinoPolicy
from starr_engine.decoding.rows import DecodingRow, RowDecision, RowFailure
from starr_engine.decoding.scores import Scores
from starr_engine.errors import RequestError

CPU = torch.device("cpu")
MASK = 9


def view(confidence: list[float], shadow: list[float] | None = None) -> BlockView:
    """A block; positions that ``shadow`` gives a number below 2 hold tokens, the others masks."""
    row = torch.tensor([confidence])
    check = torch.tensor([shadow or [2.0] * len(confidence)])
    return BlockView(
        candidates=torch.arange(len(confidence))[None],
        confidence=row,
        top1=row,
        top2=torch.zeros_like(row),
        entropy=torch.zeros_like(row),
        masked=check == 2.0,
        step=torch.zeros(1, dtype=torch.int64),
        num_left=torch.zeros(1, dtype=torch.int64),
        progress=torch.zeros(1),
        seed=torch.zeros(1, dtype=torch.int64),
        shadow_confidence=check.clamp_max(1.0),
    )


def decide(
    policy: WinoPolicy, look: BlockView, last: int | None = None
) -> tuple[list[int], list[int], int]:
    """Offsets unmasked, offsets revoked, and what the policy remembers."""
    state: State = policy.init_state(1, look.masked.shape[1], CPU)
    if last is not None:
        state = {"last": torch.tensor([last])}
    decision, after = policy.decide(look, state)
    assert decision.revoke is not None
    revoked = decision.revoke[0].nonzero()[:, 0].tolist()
    return decision.unmask[0].nonzero()[:, 0].tolist(), revoked, int(after["last"][0])


def test_a_block_opens_with_thirty() -> None:
    assert WinoPolicy().init_state(2, 8, CPU)["last"].tolist() == [30, 30]


def test_masks_above_tau1_go_and_one_at_tau1_does_not() -> None:
    assert decide(WinoPolicy(tau1=0.5), view([0.5, 0.75, 0.25, 0.625])) == ([1, 3], [], 2)


def test_the_best_mask_goes_if_none_is_sure_leftmost_among_equals() -> None:
    assert decide(WinoPolicy(), view([0.2, 0.6, 0.6, 0.1])) == ([1], [], 1)


@pytest.mark.parametrize(
    ("num_masks", "cap"), [(4, 4), (7, 5), (8, 5), (10, 7), (19, 13), (20, 14), (28, 19), (40, 20)]
)
def test_a_step_takes_seven_tenths_of_the_masks_at_least_five_at_most_twenty(
    num_masks: int, cap: int
) -> None:
    # floor(.7 * 7) = 4 -> 5, floor(.7 * 19) = 13, floor(.7 * 28) = 19, floor(.7 * 40) = 28 -> 20.
    taken, _, last = decide(WinoPolicy(), view([0.8] * num_masks))
    assert (taken, last) == (list(range(cap)), cap)


def test_beyond_the_cap_the_most_confident_go() -> None:
    policy = WinoPolicy(cap_share=0.5, cap_min=1, cap_max=2)
    assert decide(policy, view([0.8, 0.95, 0.9, 0.85])) == ([1, 2], [], 2)


def test_tokens_below_tau2_at_their_shadow_row_are_revoked() -> None:
    # Two masks go, so the tokens are judged; .875 is not below tau2, 5 was unmasked before.
    look = view([0.8, 0.8, 1, 1, 1], shadow=[2, 2, 0.875, 0.5, 0.25])
    assert decide(WinoPolicy(tau2=0.875), look, last=5) == ([0, 1], [3, 4], 2)


def test_nothing_is_revoked_when_one_mask_alone_goes() -> None:
    look = view([0.8, 0.1, 1, 1], shadow=[2, 2, 0.1, 0.1])
    assert decide(WinoPolicy(), look, last=5) == ([0], [], 1)


def test_fewer_are_revoked_than_the_step_before_unmasked() -> None:
    # Four are doubtful, three were unmasked: of them the two least probable, leftmost of .25.
    look = view([0.8, 0.8, 1, 1, 1, 1], shadow=[2, 2, 0.25, 0.5, 0.125, 0.25])
    assert decide(WinoPolicy(), look, last=3) == ([0, 1], [2, 4], 2)
    # As many as were unmasked is one too many; one fewer is not.
    assert decide(WinoPolicy(), look, last=4)[1] == [2, 4, 5]
    assert decide(WinoPolicy(), look, last=5)[1] == [2, 3, 4, 5]
    assert decide(WinoPolicy(), look, last=1)[1] == []


def test_a_mask_is_never_revoked_whatever_its_shadow_row_says() -> None:
    look = view([0.8, 0.8, 0.1], shadow=None)
    assert look.shadow_confidence is not None
    look.shadow_confidence.fill_(0.0)
    assert decide(WinoPolicy(), look) == ([0, 1], [], 2)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"tau1": 2.5}, r"tau1 must be a number in \[0, 2\], got 2.5"),
        ({"tau2": 1.5}, r"tau2 must be a number in \[0, 1\], got 1.5"),
        ({"cap_share": -0.1}, "cap_share must be a number"),
        ({"cap_min": 0}, "cap_min must be an integer >= 1"),
        ({"cap_min": 6, "cap_max": 5}, "cap_min must not exceed cap_max: 6 > 5"),
    ],
)
def test_arguments_out_of_range_are_refused(args: dict[str, float], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        WinoPolicy(**args)  # type: ignore[arg-type]


def row(block_ids: list[int], shadow_offsets: list[int] | None) -> DecodingRow:
    policy = WinoPolicy(tau1=0.5)
    ids = np.array(block_ids, np.int32)
    return DecodingRow(
        policy=policy,
        state=policy.init_state(1, len(ids), CPU),
        block_ids=ids,
        is_fixed=np.zeros(len(ids), np.bool_),
        mask_token_id=MASK,
        step=0,
        num_left=1,
        num_revoked=0,
        num_unmasked=0,
        num_masks=1,
        seed=0,
        score_offsets=np.flatnonzero(ids == MASK),
        shadow_offsets=None if shadow_offsets is None else np.array(shadow_offsets, np.int64),
    )


def scores(confidence: list[float]) -> Scores:
    values = torch.tensor(confidence)
    return Scores(
        candidates=torch.arange(len(confidence)),
        confidence=values,
        logit=values,
        best_logit=values,
        top1=values,
        top2=values,
        entropy=values,
        proposals=torch.arange(len(confidence)),
        proposal_confidence=values,
    )


def test_the_scores_of_shadow_rows_lie_behind_those_of_all_masks() -> None:
    rows = [row([MASK, 5, MASK, 6], [1, 3]), row([4, MASK, MASK, MASK], [0])]
    values = [0.6, 0.7, 0.8, 0.9, 0.1, 0.95, 0.2, 0.3]  # masks of both, shadow rows of both
    first, second = decide_rows(rows, scores(values), torch.zeros(8, 10))
    assert isinstance(first, RowDecision)
    assert isinstance(second, RowDecision)
    assert (first.unmask_offsets.tolist(), first.unmask_ids.tolist()) == ([0, 2], [0, 1])
    assert first.revoke_offsets.tolist() == [3]
    assert (second.unmask_offsets.tolist(), second.unmask_ids.tolist()) == ([1, 2], [2, 3])
    assert second.revoke_offsets.tolist() == [0]


def test_a_row_without_its_shadow_scores_fails_instead_of_trusting_its_tokens() -> None:
    [result] = decide_rows([row([MASK, 5], None)], scores([0.6]), torch.zeros(1, 10))
    assert isinstance(result, RowFailure)
    assert "needs shadow rows" in result.reason


def test_a_shadow_row_without_a_number_fails_its_request_alone() -> None:
    rows = [row([MASK, 5], [1]), row([MASK, 5], [1])]
    broken, fine = decide_rows(rows, scores([0.6, 0.6, np.nan, 0.9]), torch.zeros(4, 10))
    assert isinstance(broken, RowFailure)
    assert "not finite" in broken.reason
    assert isinstance(fine, RowDecision)
