"""What a row carries from a step that is not known stands for what the host would know."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from starr_engine.decoding.base import BlockView, Decision, PolicyDefaults, State
from starr_engine.decoding.carrying import Carried, CarriedRow
from starr_engine.decoding.decoder import GroupedRows, QueuedRows
from starr_engine.decoding.rows import DecodingRow, RowDecision
from starr_engine.decoding.scores import score_rows

VOCAB, MASK = 11, 10
BEFORE = np.array([MASK, 4, MASK, MASK, 6], np.int32)
AFTER = np.array([MASK, 4, 7, MASK, 6], np.int32)
"""What the step that is not known makes of it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Looks(PolicyDefaults):
    """Keeps what it sees, and unmasks the first mask."""

    needs_logits = True
    views: list[BlockView] = field(default_factory=list)

    def init_state(self, rows: int, block_length: int, device: torch.device) -> State:
        return {}

    def decide(self, view: BlockView, state: State) -> tuple[Decision, State]:
        self.views.append(view)
        return Decision(unmask=view.masked & (view.masked.cumsum(1) == 1)), state


def decided(ids: Any, scored: Any, logits: torch.Tensor, **known: Any) -> tuple[BlockView, Any]:
    """The view and the queued decision of one row whose block holds ``AFTER``."""
    policy = Looks()
    fields = {"num_unmasked": 3, "num_revoked": 2, "num_held": 1, "carried": None} | known
    row = DecodingRow(
        policy=policy, state={}, block_ids=ids, is_fixed=np.zeros(len(ids), np.bool_),
        mask_token_id=MASK, step=2, num_left=3, num_masks=8, seed=1, score_offsets=scored, **fields,
    )  # fmt: skip
    present = torch.from_numpy(AFTER[scored].astype(np.int64))
    grouped = GroupedRows([row])
    facts = grouped.facts.upload(logits.device)
    rows = QueuedRows(grouped, facts, score_rows(logits, present, MASK, []), logits)
    return policy.views[0], rows


def test_a_policy_sees_what_it_would_have_seen_and_the_next_step_gets_the_same() -> None:
    logits = torch.randn((3, VOCAB), generator=torch.Generator().manual_seed(0))
    before = Carried(
        token_ids=torch.tensor([1, 2, *AFTER.tolist()]),
        counts=torch.tensor([[9, 3], [9, 2], [9, 1]]),
        is_open=torch.tensor([True, True]),
    )
    carried = CarriedRow(before, 1, 2, {})
    late, late_rows = decided(
        BEFORE, np.array([0, 2, 3]), logits,
        num_unmasked=0, num_revoked=0, num_held=0, carried=carried,
    )  # fmt: skip
    known, known_rows = decided(AFTER, np.array([0, 3]), logits[[0, 2]])
    for name in BlockView.__slots__:
        seen, expected = getattr(late, name), getattr(known, name)
        assert (seen is None) == (expected is None), name
        assert seen is None or torch.equal(seen, expected), name
    [first], [second] = late_rows.carry(), known_rows.carry()
    for name in ("token_ids", "counts", "is_open"):
        seen, expected = getattr(first.carried, name), getattr(second.carried, name)
        assert torch.equal(seen, expected), name
    assert first.carried.token_ids[0] != MASK
    assert first.carried.counts[:, 0].tolist() == [4, 2, 1]
    [decision], [other] = late_rows.wait(), known_rows.wait()
    assert isinstance(decision, RowDecision)
    assert decision.unmask_offsets.tolist() == other.unmask_offsets.tolist() == [0]
    assert decision.unmask_ids.tolist() == other.unmask_ids.tolist()
    assert decision.unmask_confidence == pytest.approx(other.unmask_confidence)
