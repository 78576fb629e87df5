"""Tokens that a policy puts in place of the candidates: what the engine takes, what it refuses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from starr_engine.decoding.base import BlockView, Decision, State, StatelessPolicy
from starr_engine.decoding.decoder import decide_rows
from starr_engine.decoding.exit.base import ExitRule
from starr_engine.decoding.exit.sched import SchedRule
from starr_engine.decoding.policies.low_confidence import LowConfidencePolicy
from starr_engine.decoding.rows import DecodingRow, RowDecision, RowFailure
from starr_engine.decoding.scores import score_rows

MASK = 9
VOCABULARY = 10


@dataclass(frozen=True)
class Puts(StatelessPolicy):
    """Unmasks the leftmost mask, with tokens of its own."""

    tokens: tuple[int, ...]
    dtype: torch.dtype = torch.int64
    stuck: bool = False

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        first = view.masked & (view.masked.cumsum(1) == 1)
        tokens = torch.tensor([self.tokens] * len(view.masked), dtype=self.dtype)
        return Decision(unmask=first & (not self.stuck), tokens=tokens), state


def row(policy: Any, exit_rule: ExitRule | None = None) -> DecodingRow:
    ids = np.array([MASK, 5, MASK], np.int32)
    return DecodingRow(
        policy=policy,
        state={},
        block_ids=ids,
        is_fixed=ids != MASK,
        mask_token_id=MASK,
        step=0,
        num_left=1,
        num_revoked=0,
        num_unmasked=0,
        num_masks=1,
        seed=0,
        score_offsets=np.flatnonzero(ids == MASK),
        exit_rule=exit_rule,
    )


def decided(*rows: DecodingRow) -> list[RowDecision | RowFailure]:
    logits = torch.arange(2 * len(rows) * VOCABULARY).reshape(-1, VOCABULARY).sin()
    present = torch.full((2 * len(rows),), MASK)
    return decide_rows(rows, score_rows(logits, present, MASK, []), logits)


def test_own_tokens_are_put_at_masks_whatever_stands_elsewhere() -> None:
    [result] = decided(row(Puts((2, -7, 3))))
    assert isinstance(result, RowDecision)
    assert (result.unmask_offsets.tolist(), result.unmask_ids.tolist()) == ([0], [2])


@pytest.mark.parametrize("rule", [None, SchedRule(high=0.0, low=0.0)])
def test_what_early_exit_or_the_guarantee_adds_has_the_policys_tokens(
    rule: ExitRule | None,
) -> None:
    [result] = decided(row(Puts((2, 5, 3), stuck=True), rule))
    assert isinstance(result, RowDecision)
    offsets = result.unmask_offsets.tolist()
    assert len(offsets) == (1 if rule is None else 2)
    assert result.unmask_ids.tolist() == [(2, 5, 3)[offset] for offset in offsets]


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (Puts((MASK, 5, 3)), "not the mask token, at every mask and edit; got 9"),
        # Unmasked by nobody this time; early exit or the guarantee might.
        (Puts((2, 5, MASK)), "not the mask token, at every mask and edit; got 9"),
        (
            Puts((-1, 5, 3)),
            "an id of the vocabulary, and not the mask token, at every mask and edit; got -1",
        ),
        (Puts((VOCABULARY, 5, 3)), "an id of the vocabulary, .* got 10"),
        (Puts((2, 5, 3), dtype=torch.int32), r"tokens must be an int64 tensor \(1, 3\)"),
        (Puts((2, 5, 3), dtype=torch.float32), r"tokens must be an int64 tensor \(1, 3\)"),
        (Puts((2, 5)), r"tokens must be an int64 tensor \(1, 3\)"),
    ],
)
def test_a_wrong_token_fails_its_rows_with_a_reason(policy: Puts, reason: str) -> None:
    results = decided(row(policy), row(LowConfidencePolicy()), row(policy))
    for broken in (results[0], results[2]):
        assert isinstance(broken, RowFailure)
        with pytest.raises(ValueError, match=f"Puts failed: ValueError: .*{reason}"):
            raise ValueError(broken.reason)
    assert isinstance(results[1], RowDecision)
