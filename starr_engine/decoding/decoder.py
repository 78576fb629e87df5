"""Scores to decisions for all rows of a step: rows of equal policies are decided together.

The host queues the work of all groups on the device before it waits for any of it, once. What
could only be found out by waiting earlier (rows without numbers, a policy that broke a rule) comes
with the decisions, and is then gone after row by row.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from starr_engine.decoding.base import RemaskingPolicy
from starr_engine.decoding.carrying import Carried, CarriedRow
from starr_engine.decoding.exit.base import ExitRule
from starr_engine.decoding.facts import BlockFacts, Integers, KnownFacts
from starr_engine.decoding.group import Doubts, GroupDecision, decide_group
from starr_engine.decoding.rows import DecodingRow, Member, RowDecision, RowFailure
from starr_engine.decoding.scores import Scores
from starr_engine.decoding.stacking import RowState, cut, row_shapes
from starr_engine.decoding.transfer import Arrays, download

_GroupKey = tuple[RemaskingPolicy, ExitRule | None, int, tuple[object, ...]]
"""Policy, exit rule, block length, shapes of the state: rows of one key are decided together."""

Results = dict[int, RowDecision | RowFailure]
"""By the row's place in the step."""


def decide_rows(
    rows: Sequence[DecodingRow], scores: Scores, logits: Tensor, *, stacked: bool = True
) -> list[RowDecision | RowFailure]:
    """Decide every row by its policy, and see to it that each makes progress.

    Args:
        rows: In the order in which their scores lie in ``scores``.
        scores: Of all scored positions of all rows, and then of all their shadow rows.
        logits: [M, V] what the scores were computed from.
        stacked: Whether states of rows stay together; see ``decoding.stacking``.

    Returns:
        One decision per row, in order, on the host; or why there is none.
    """
    grouped = GroupedRows(rows)
    facts = grouped.facts.upload(logits.device)
    return QueuedRows(grouped, facts, scores, logits, stacked=stacked).wait()


class GroupedRows:
    """The rows of a step, by who is decided together, and what is known of them.

    Args:
        rows: In the order in which their scores will lie.
        others: Arrays of integers that go up with the facts.
    """

    def __init__(self, rows: Sequence[DecodingRow], *others: Integers) -> None:
        self.members = _members(rows)
        self.groups = _groups(self.members)
        self.facts = KnownFacts(self.groups, *others)


class QueuedRows:
    """As :func:`decide_rows`, but the host does not wait for the device before :meth:`wait`.

    Args:
        rows: Of the step.
        facts: Of their groups, on the device.
        scores: See :func:`decide_rows`, like the others.
    """

    def __init__(
        self,
        rows: GroupedRows,
        facts: Sequence[BlockFacts],
        scores: Scores,
        logits: Tensor,
        *,
        stacked: bool = True,
    ) -> None:
        self._scores, self._logits, self._stacked = scores, logits, stacked
        self._members = rows.members
        self._queued = [
            _queue(group, known, scores, logits, stacked=stacked)
            for group, known in zip(rows.groups, facts, strict=True)
        ]
        self._finite = download({"has_numbers": scores.top1.isfinite()}) if rows.members else dict
        self.is_as_queued = True
        """Once they are known: whether the decisions are those that :meth:`carry` told of. Else
        they had to be made again."""

    def carry(self) -> list[CarriedRow] | None:
        """Of each row, in order; None if a group can only be decided step by step."""
        decided = [group.decided for group in self._queued]
        if not decided or any(each is None for each in decided):
            return None
        ids, counts, is_open = zip(*(each.after() for each in decided if each), strict=True)
        carried = Carried(
            token_ids=torch.cat([each.flatten() for each in ids]),
            counts=torch.cat(counts, dim=1),
            is_open=torch.cat(is_open),
        )
        rows: dict[int, CarriedRow] = {}
        first = 0
        for group in self._queued:
            for member, state in zip(group.members, group.states, strict=True):
                rows[member.index] = CarriedRow(carried, len(rows), first, state)
                first += len(member.row.block_ids)
        return [rows[index] for index in range(len(rows))]

    def wait(self) -> list[RowDecision | RowFailure]:
        """The decisions, in order; to be called once."""
        results: Results = {}
        if self._members and not self._finite()["has_numbers"].all():
            self.is_as_queued = False
            results = _decide_finite(self._members, self._scores, self._logits, self._stacked)
        else:
            for group in self._queued:
                results |= self._results(group)
        return [results[index] for index in range(len(self._members))]

    def _results(self, group: _Queued) -> Results:
        if group.decided is not None:
            arrays = group.arrays()
            if not arrays["doubts"]:
                return _split(group.members, group.decided, arrays, group.states)
        self.is_as_queued = False
        return _decide_slowly(group.members, self._scores, self._logits, self._stacked)


@dataclass(frozen=True, slots=True)
class _Queued:
    members: list[Member]
    decided: GroupDecision | None
    """None if it has to be decided step by step."""

    states: list[RowState]
    """After it, of each member."""

    arrays: Callable[[], Arrays]


def _members(rows: Sequence[DecodingRow]) -> list[Member]:
    members = []
    first, first_shadow = 0, sum(len(row.score_offsets) for row in rows)
    for index, row in enumerate(rows):
        shadows = slice(first_shadow, first_shadow + row.num_shadows)
        members.append(Member(index, row, first, shadows))
        first, first_shadow = first + len(row.score_offsets), shadows.stop
    return members


def _groups(members: Iterable[Member]) -> list[list[Member]]:
    groups: dict[_GroupKey, list[Member]] = defaultdict(list)
    for member in members:
        row = member.row
        # A state of vocabulary size is empty before the block's first step: such rows go together.
        key = (row.policy, row.exit_rule, len(row.block_ids), row_shapes(row.state))
        groups[key].append(member)
    return list(groups.values())


def _queue(
    members: list[Member], facts: BlockFacts, scores: Scores, logits: Tensor, *, stacked: bool
) -> _Queued:
    doubts = Doubts()
    try:
        decided = decide_group(members, facts, scores, logits, doubts)
    except Exception:  # whatever a user's policy may raise, if only for rows without numbers
        return _Queued(members, None, [], dict)
    arrays = download(_outcome(decided) | {"doubts": doubts.any()})
    return _Queued(members, decided, cut(decided.state, len(members), stacked=stacked), arrays)


def _decide_slowly(members: list[Member], scores: Scores, logits: Tensor, stacked: bool) -> Results:
    """Results by index; if the group as a whole fails, each row has its own chance."""
    try:
        [facts] = KnownFacts([members]).upload(logits.device)
        decided = decide_group(members, facts, scores, logits)
        states = cut(decided.state, len(members), stacked=stacked)
        return _split(members, decided, download(_outcome(decided))(), states)
    except Exception as error:  # whatever a user's policy may raise
        if len(members) > 1:
            results: Results = {}
            for member in members:
                results |= _decide_slowly([member], scores, logits, stacked)
            return results
        policy, rule = members[0].row.policy, members[0].row.exit_rule
        names = type(policy).__name__ + ("" if rule is None else f" with {type(rule).__name__}")
        reason = f"{names} failed: {type(error).__name__}: {error}"
        return {members[0].index: RowFailure(reason=reason)}


def _decide_finite(members: list[Member], scores: Scores, logits: Tensor, stacked: bool) -> Results:
    """The rows whose logits are numbers; why the others have no future."""
    has_numbers = scores.top1.isfinite().cpu().numpy()
    results: Results = {}
    sound: list[Member] = []
    for member in members:
        own = slice(member.first_score, member.first_score + len(member.row.score_offsets))
        if has_numbers[own].all() and has_numbers[member.shadow_scores].all():
            sound.append(member)
        else:
            results[member.index] = RowFailure(reason=_why_no_numbers(member.row, logits[own]))
    for group in _groups(sound):
        results |= _decide_slowly(group, scores, logits, stacked)
    return results


def _why_no_numbers(row: DecodingRow, logits: Tensor) -> str:
    others = torch.arange(logits.shape[1], device=logits.device) != row.mask_token_id
    forbidden = (logits[:, others] == -torch.inf).all(1).cpu().numpy()
    if row.has_rules and forbidden.any():
        offset = row.score_offsets[forbidden][0]
        return (
            f"the request's options forbid every token at position {offset} of the block behind "
            f"{row.num_left} tokens; relax allowed_token_ids, bad_words, min_tokens or suppress_eos"
        )
    return "the model's logits are not finite numbers; check the weights, or use a wider dtype"


def _outcome(decided: GroupDecision) -> dict[str, Tensor]:
    """What the host must know of a decision; all [n, L] but ``hold``, which is [n]."""
    decision, view = decided.decision, decided.view
    chosen = {"unmask": decision.unmask, "revoke": decision.revoke, "edit": decision.edit}
    tensors = {name: tensor for name, tensor in chosen.items() if tensor is not None}
    if decision.hold is not None:
        tensors["hold"] = decision.hold
    return tensors | {"ids": decision.tokens_put(view), "confidence": decided.confidence}


def _offsets(chosen: NDArray[np.bool_] | None, num_rows: int) -> list[NDArray[np.int64]]:
    """Of each row, where it is true; nowhere where the policy said nothing."""
    if chosen is None:
        return [np.empty(0, np.int64)] * num_rows
    rows, offsets = chosen.nonzero()
    bounds = np.searchsorted(rows, np.arange(num_rows + 1)).tolist()
    return [offsets[start:stop] for start, stop in itertools.pairwise(bounds)]


def _split(
    members: list[Member], decided: GroupDecision, arrays: Arrays, states: list[RowState]
) -> Results:
    count = len(members)
    ids, chances = arrays["ids"].astype(np.int32), arrays["confidence"]
    hold = arrays["hold"].tolist() if "hold" in arrays else [False] * count
    unmasked, revoked, every_edited = (
        _offsets(arrays.get(name), count) for name in ("unmask", "revoke", "edit")
    )
    return {
        member.index: RowDecision(
            unmask_offsets=(offsets := unmasked[n]),
            unmask_ids=ids[n, offsets],
            unmask_confidence=chances[n, offsets],
            revoke_offsets=revoked[n],
            edit_offsets=(edited := every_edited[n]),
            edit_ids=ids[n, edited],
            edit_confidence=chances[n, edited],
            hold=hold[n],
            state=states[n],
            trace=decided.traces[n],
        )
        for n, member in enumerate(members)
    }
