"""What the engine relies on in every remasking policy, whoever wrote it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, is_dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from starr_engine.decoding.base import (
    BlockView,
    Decision,
    RemaskingPolicy,
    State,
    state_shapes,
)
from starr_engine.decoding.guarantee import guarantee_progress
from starr_engine.testing.policy_views import (
    LENGTH,
    MASK_TOKEN_ID,
    ROWS,
    Shot,
    draw_view,
    join,
    pick,
    pick_state,
    play,
)


def check_policy(
    policy: RemaskingPolicy, *, seeds: Iterable[int] = range(3), leftmost_first: bool = True
) -> None:
    """Hold a policy to the rules, over random blocks decoded to their end.

    - value: a frozen data class; made again from the same arguments it is equal and hashes equally.
    - state: tensors with one row per block, which keep their shape and dtype.
    - decision: bool [n, L]; masks alone are unmasked, tokens alone revoked or edited, and no token
      both; tokens are int64 [n, L] and at no mask and no edit the mask token; hold is bool [n];
      edit and hold come with scores_unmasked; signals are [n, L] or [n, 1].
    - purity: the arguments are left as they were, and asking twice gives the same.
    - rows: a row is decided the same alone, in any order, and beside rows at other steps.
    - progress: with the engine's guarantee every block ends within its bound, and within one step
      per position as long as nothing is revoked and no full block is held.
    - leftmost: of masks that differ in nothing but their place the leftmost go first.

    Args:
        policy: What is to be checked, with its arguments.
        seeds: Of the random blocks.
        leftmost_first: False for a policy that draws positions at random; leaves out the last rule.

    Raises:
        AssertionError: Says which rule is broken, and in which row at which step of which seed.
    """
    _check_value(policy)
    _check_init_state(policy)
    for seed in seeds:
        steps = []
        goes_on = False
        for shot, decision, after in play(policy, seed):
            where = _Where(seed=seed, shot=shot)
            _check_decision(where, policy, decision)
            _check_state(where, after)
            _check_purity(where, policy, decision, after)
            _check_order(where, policy, decision, after)
            goes_on |= any(
                more is not None and bool(more.any()) for more in (decision.revoke, decision.hold)
            )
            steps.append((shot, decision, after))
        _check_company(policy, steps, seed)
        _require(
            goes_on or len(steps) <= LENGTH,
            f"progress: {len(steps)} steps for {LENGTH} positions (seed {seed})",
        )
    if leftmost_first:
        _check_leftmost(policy)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Where:
    """A step, and how to name its rows."""

    seed: int
    shot: Shot

    def require(self, good: Tensor, rule: str) -> None:
        """Fail at the first row of ``good`` bool [n] that is False."""
        if not good.all():
            row = int(self.shot.rows[int((~good).nonzero()[0, 0])])
            self.fail(f"{rule} (row {row}")

    def fail(self, text: str) -> None:
        """Fail for all rows, or for the one that an open bracket names."""
        opened = f"{text}, " if "(row" in text else f"{text} ("
        raise AssertionError(f"{opened}step {self.shot.step}, seed {self.seed})")


def _require(good: bool, rule: str) -> None:
    # No assert statement: python -O would leave it out.
    if not good:
        raise AssertionError(rule)


def _check_value(policy: RemaskingPolicy) -> None:
    frozen = is_dataclass(policy) and cast(Any, policy).__dataclass_params__.frozen
    _require(frozen, f"value: {type(policy).__name__} must be a frozen data class")
    for name in ("scores_unmasked", "needs_logits", "needs_shadow"):
        answer = getattr(policy, name, None)
        _require(isinstance(answer, bool), f"value: {name} must be True or False, got {answer!r}")
    again = replace(cast(Any, policy))
    _require(again == policy, "value: made again from the same arguments it must be equal")
    try:
        same_hash = hash(again) == hash(policy)
    except TypeError as error:
        raise AssertionError(f"value: it must have a hash: {error}") from error
    _require(same_hash, "value: made again from the same arguments it must have the same hash")


def _check_init_state(policy: RemaskingPolicy) -> None:
    for rows in (1, 4):
        for name, values in policy.init_state(rows, LENGTH, torch.device("cpu")).items():
            _require(isinstance(values, Tensor), f"state: {name!r} must be a tensor")
            _require(
                tuple(values.shape[:1]) == (rows,),
                f"state: the first dimension of {name!r} must be the row: {rows} rows, "
                f"shape {tuple(values.shape)}",
            )


def _check_decision(where: _Where, policy: RemaskingPolicy, decision: Decision) -> None:
    view = where.shot.view
    shape = view.masked.shape
    for name in ("unmask", "revoke", "edit", "hold"):
        chosen: Tensor | None = getattr(decision, name)
        wanted = shape[:1] if name == "hold" else shape
        if chosen is not None and (chosen.dtype is not torch.bool or chosen.shape != wanted):
            where.fail(
                f"decision: {name} must be a bool tensor {tuple(wanted)}, got {chosen.dtype} "
                f"{tuple(chosen.shape)}"
            )
    rule = "decision: it unmasked a position that is no mask"
    where.require(~(decision.unmask & ~view.masked).any(1), rule)
    edit = torch.zeros_like(view.masked) if decision.edit is None else decision.edit
    if decision.revoke is not None:
        rule = "decision: it revoked a position that is a mask"
        where.require(~(decision.revoke & view.masked).any(1), rule)
        rule = "decision: it edited a position that it revoked"
        where.require(~(decision.revoke & edit).any(1), rule)
    where.require(~(edit & view.masked).any(1), "decision: it edited a position that is a mask")
    if not policy.scores_unmasked and (decision.edit is not None or decision.hold is not None):
        where.fail("decision: edit and hold are for policies with scores_unmasked")
    if decision.tokens is not None:
        if decision.tokens.dtype is not torch.int64 or decision.tokens.shape != shape:
            where.fail(f"decision: tokens must be an int64 tensor {tuple(shape)}")
        allowed = (decision.tokens >= 0) & (decision.tokens < MASK_TOKEN_ID)
        rule = "decision: it put a token that is none of the vocabulary, or the mask token"
        where.require((allowed | ~(view.masked | edit)).all(1), rule)
    for name, values in (decision.signals or {}).items():
        if values.shape not in (shape, (shape[0], 1)):
            where.fail(f"decision: signal {name!r} must be [n, L] or [n, 1]")


def _check_state(where: _Where, state: State) -> None:
    before = where.shot.state
    if state.keys() != before.keys():
        where.fail(f"state: it had {sorted(before)}, and after the step {sorted(state)}")
    for name, values in state.items():
        # A dimension of 0 may take its size at the first step, which is the first to show V.
        free = 0 if where.shot.step == 0 else None
        old = [
            new if size == free else size
            for new, size in zip(values.shape, before[name].shape, strict=False)
        ]
        if list(values.shape) != old or values.dtype != before[name].dtype:
            where.fail(f"state: {name!r} must keep its shape and dtype")


def _check_purity(where: _Where, policy: RemaskingPolicy, decision: Decision, after: State) -> None:
    view, state = where.shot.view, where.shot.state
    given = [name for name in BlockView.__slots__ if getattr(view, name) is not None]
    kept = {name: getattr(view, name).clone() for name in given}
    kept_state = {name: values.clone() for name, values in state.items()}
    again = policy.decide(view, state)
    for name, values in kept.items():
        if not _equal(getattr(view, name), values).all():
            where.fail(f"purity: decide changed the view's {name}")
    for name, values in kept_state.items():
        if not _equal(state[name], values).all():
            where.fail(f"purity: decide changed the state's {name!r}")
    rule = "purity: asked twice it gave two answers"
    where.require(_same_rows(again, (decision, after)), rule)


def _check_order(where: _Where, policy: RemaskingPolicy, decision: Decision, after: State) -> None:
    order = torch.arange(len(where.shot.rows)).flip(0)
    got = policy.decide(pick(where.shot.view, order), pick_state(where.shot.state, order))
    back = (_pick_decision(got[0], order), pick_state(got[1], order))
    rule = "rows: the order of the rows changed the answer"
    where.require(_same_rows(back, (decision, after)), rule)


def _check_company(
    policy: RemaskingPolicy, steps: list[tuple[Shot, Decision, State]], seed: int
) -> None:
    """Every row alone, and then all rows of all steps shuffled into batches."""
    places = [(at, row) for at, step in enumerate(steps) for row in range(len(step[0].rows))]
    shuffle = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed)).tolist()
    # As in the engine, rows whose states differ in shape are decided apart.
    alike: dict[object, list[tuple[int, int]]] = defaultdict(list)
    for at, row in (places[i] for i in shuffle):
        alike[state_shapes(steps[at][0].state)].append((at, row))
    mixed = [group[at : at + ROWS] for group in alike.values() for at in range(0, len(group), ROWS)]
    for batch in [[place] for place in places] + mixed:
        picked = [(steps[at], torch.tensor([row])) for at, row in batch]
        view = join([pick(shot.view, row) for (shot, _, _), row in picked])
        states = [pick_state(shot.state, row) for (shot, _, _), row in picked]
        decision, after = policy.decide(view, _join_states(states))
        for number, ((shot, alone, state), row) in enumerate(picked):
            here = torch.tensor([number])
            same = _same_rows(
                (_pick_decision(decision, here), pick_state(after, here)),
                (_pick_decision(alone, row), pick_state(state, row)),
            )
            company = "alone" if len(batch) == 1 else "beside rows at other steps"
            _Where(seed=seed, shot=replace(shot, rows=shot.rows[row])).require(
                same, f"rows: a row was decided differently {company}"
            )


def _check_leftmost(policy: RemaskingPolicy) -> None:
    blocks = torch.full((ROWS, LENGTH), -1)
    view = draw_view(policy, blocks, torch.arange(ROWS), 0, torch.Generator().manual_seed(0))
    level = torch.full((ROWS, LENGTH), 0.25)
    flat = None if view.logits is None else view.logits[:, :1].expand_as(view.logits)
    view = replace(
        view,
        candidates=torch.zeros_like(view.candidates),
        confidence=level,
        top1=level,
        top2=level,
        entropy=level,
        proposals=torch.zeros_like(view.candidates),
        proposal_confidence=level,
        logits=flat,
        sampling_logits=flat,
    )
    decision, _ = policy.decide(view, policy.init_state(ROWS, LENGTH, torch.device("cpu")))
    unmask = guarantee_progress(view, decision).unmask
    count = unmask.sum(1, keepdim=True)
    where = _Where(seed=0, shot=Shot(rows=torch.arange(ROWS), step=0, view=view, state={}))
    where.require(
        (unmask == (torch.arange(LENGTH) < count)).all(1),
        "leftmost: of equal masks the leftmost must go first",
    )


def _same_rows(got: tuple[Decision, State], expected: tuple[Decision, State]) -> Tensor:
    """Whether decision and state agree, bool [n]; signals are not compared."""
    same = (got[0].unmask == expected[0].unmask).all(1)
    for name in ("revoke", "edit", "hold", "tokens"):
        first, second = getattr(got[0], name), getattr(expected[0], name)
        if first is None and second is None:
            continue
        if first is None or second is None:
            return torch.zeros_like(same)
        put = torch.ones_like(first, dtype=torch.bool)
        if name == "tokens":
            put = expected[0].unmask
            put = put if expected[0].edit is None else put | expected[0].edit
        same &= ((first == second) | ~put)[..., None].flatten(1).all(1)
    for name, values in got[1].items():
        # A state may be one number per row, and have a dimension of 0.
        same &= _equal(values, expected[1][name])[..., None].flatten(1).all(1)
    return same


def _equal(got: Tensor, expected: Tensor) -> Tensor:
    """Element by element; NaN, which may stand for "unknown", equals itself."""
    return (got == expected) | (got.isnan() & expected.isnan())


def _pick_decision(decision: Decision, rows: Tensor) -> Decision:
    return Decision(
        unmask=decision.unmask[rows],
        revoke=None if decision.revoke is None else decision.revoke[rows],
        edit=None if decision.edit is None else decision.edit[rows],
        tokens=None if decision.tokens is None else decision.tokens[rows],
        hold=None if decision.hold is None else decision.hold[rows],
    )


def _join_states(states: list[State]) -> State:
    return {name: torch.cat([state[name] for state in states]) for name in states[0]}
